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
import importlib
import json
import os
import resource
import sys
import types
from pathlib import Path

from minillm.course.launch import Box
from minillm.course.remote import Wall, install, stand_in

PR_SET_DUMPABLE = 4


def put_stand_ins(wall, orders):
    """Replace the exercise's function; for an exercise in CUDA C, which has none, every function that may read its text."""
    for name in orders["functions"]:
        module, _, path = name.partition(":")
        install(wall, module, path)
    for module in orders["modules"]:
        space = importlib.import_module(module)
        for name, value in list(vars(space).items()):
            if isinstance(value, types.FunctionType) and value.__module__ == module:
                setattr(space, name, stand_in(wall, f"{module}:{name}", value))


def fetch_texts(wall, orders):
    """A text that holds an exercise is data: the submission's takes the reference's place."""
    for module in orders["modules"]:
        space = sys.modules[module]
        for name, value in list(vars(space).items()):
            if isinstance(value, str) and "BEGIN SOLUTION" in value:
                setattr(space, name, wall.ask("text", f"{module}:{name}", None))


def load(wall, orders):
    """Let the child load the submission. What another file breaks is loaded without that file. -> what is wrong, or None"""
    own, folder = orders["child"]["file"], wall.box.submission
    while trouble := wall.ready():
        at = trouble.partition(":")[0]
        others = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).as_posix() != own]
        culprits = [path for path in others if path.relative_to(folder).as_posix() == at] or others
        if at == own and not wall.died or not culprits:
            return trouble
        for path in culprits:
            path.unlink()
        wall.kill()
    return None


def protect():
    """No other process of this user may look into this one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main():
    orders = json.loads(sys.stdin.readline())
    out = os.fdopen(orders["pipe"], "w")

    def send(event):
        print(json.dumps(event), file=out, flush=True)

    protect()
    wall = Wall(Box(Path(orders["box"])), orders["child"], send)
    wall.start()  # it loads while we do
    put_stand_ins(wall, orders)
    import pytest

    from minillm.course.bench import Bench, TimeLimit, limit

    try:
        with limit(max(10, orders["time_limit"]), lambda: "it was not loaded in time: a loop at its top level?", wall):
            trouble = load(wall, orders)
    except TimeLimit as error:
        trouble = f"{orders['child']['file']}: {error}"
    if trouble:
        return send({"event": "broken", "message": trouble})
    fetch_texts(wall, orders)
    arguments = ["--seed", str(orders["seed"]), "--basetemp", "tmp/pytest", f"--ex={orders['exercise']}", *orders["files"]]
    pytest.main(arguments, plugins=[Bench(wall, orders["missing"], orders["time_limit"], send)])
    wall.kill()


if __name__ == "__main__":
    main()
