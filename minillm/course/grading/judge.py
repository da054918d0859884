"""The process that judges: it runs the tests, and never a line of the submission.

    grade ──▶ judge: pytest, tests, oracles, seed, the reference            child: NumPy, the emptied package, the submission
      ▲         │     minillm.layers.rms_norm = stand-in ─── call ─────────▶  rms_norm
      └─────────┘                                         ◀── value ────────
       what became of each test, through a pipe               plain data, believed in nothing (wire, mirror)

The submission can reach neither the reporter nor the oracle, whatever it does to its own process: there is nothing there but
itself. All else of minillm is the reference here, so that a fault in one exercise does not cost the next.

grade starts a judge for each exercise, with its orders as one line of JSON on standard input:

    exercise, seed, time_limit, files (of tests), pipe, missing    what to run, and where to tell of it
    box, child                                                     the child's folder, and its own orders (child.py)
    functions, modules                                             where stand-ins go
"""

import ctypes
import json
import os
import resource
import sys
from pathlib import Path

from minillm.course.grading.launch import Box
from minillm.course.grading.remote import Wall
from minillm.course.grading.stand_in import put_stand_ins

PR_SET_DUMPABLE = 4


def fetch_texts(wall, orders):
    """Replace the reference's text by the submission's, where a text that holds an exercise is data."""
    for module in orders["modules"]:
        space = sys.modules[module]
        for name, value in list(vars(space).items()):
            if isinstance(value, str) and "BEGIN SOLUTION" in value:
                setattr(space, name, wall.ask("text", f"{module}:{name}", None))


def load(wall, orders):
    """Let the child load the submission. A file that breaks because of another is loaded without it. -> the error, or None"""
    own, folder = orders["child"]["file"], wall.box.submission
    while trouble := loaded(wall, own, max(10, orders["time_limit"])):
        at = trouble.partition(":")[0]
        others = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).as_posix() != own]
        culprits = [path for path in others if path.relative_to(folder).as_posix() == at] or others
        if at == own and not wall.died or not culprits:
            return trouble
        for path in culprits:
            path.unlink()
        wall.kill()
    return None


def loaded(wall, own, seconds):  # -> what is wrong, or None
    from minillm.course.grading.bench import TimeLimit, limit

    try:
        with limit(seconds, lambda: "", wall):
            return wall.ready()
    except TimeLimit:
        wall.died = True
        return f"{own}: was not loaded in {seconds:g} s: a loop at its top level?"


def protect(memory):
    """Protect this process from others of this user, and limit what the child's messages can use."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hasattr(resource, "RLIMIT_AS") and hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (memory, hard))


def main():
    orders = json.loads(sys.stdin.readline())
    out = os.fdopen(orders["pipe"], "w")

    def send(event):
        print(json.dumps(event), file=out, flush=True)

    protect(int(orders["child"]["memory"]) + 2**30)
    wall = Wall(Box(Path(orders["box"])), orders["child"], send)
    wall.start()  # it loads while we do
    put_stand_ins(wall, orders)
    import pytest

    from minillm.course.grading.bench import Bench

    if trouble := load(wall, orders):
        send({"event": "broken", "message": trouble})
        return
    fetch_texts(wall, orders)
    arguments = ["--seed", str(orders["seed"]), "--basetemp", "tmp/pytest", f"--ex={orders['exercise']}", *orders["files"]]
    pytest.main(arguments, plugins=[Bench(wall, orders["missing"], orders["time_limit"], send)])
    wall.kill()


if __name__ == "__main__":
    main()
