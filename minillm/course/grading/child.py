"""The process in which a submission runs. It answers calls across the wall (wire.py), and knows nothing else.

There is no test here, no oracle, no seed and no solution: the package in this box has the submitted files' regions emptied, and
the submission is laid over it. Before the first line of that is run, the process is locked up (jail.py) and bound to limits.
Whatever it does to itself afterwards, all that reaches the judge are values, and the judge believes none of them.
"""

import importlib
import importlib.util
import json
import os
import resource
import socket
import sys
import threading
import tracemalloc
from pathlib import Path


def limit(orders):
    """Set the limits of this process: nothing here can raise them again."""
    seconds, memory = int(orders["seconds"]) + 1, int(orders["memory"])
    for name, value in {
        "RLIMIT_CPU": seconds * 2,  # numba and BLAS use two threads
        "RLIMIT_AS": memory,  # macOS knows it and ignores it
        "RLIMIT_FSIZE": 8_000_000,  # and launch.py looks at the sum
        "RLIMIT_NOFILE": 64,  # so that what is deleted and still open does not fill the disk either
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": (tasks() if os.getuid() else 0) + 32,  # of this user; root is about to become a new one
    }.items():
        if hasattr(resource, name):
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))


def tasks():
    """Count the threads of this user, as RLIMIT_NPROC counts them; a large number where /proc is missing."""
    total, mine = 0, os.getuid()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == mine:
                total += len(list((folder / "task").iterdir()))
        except OSError:
            continue
    return total or 4096


class Performer:
    """Answers the judge's calls."""

    def __init__(self, mirror):
        self.mirror = mirror

    def __call__(self, op, to, value):
        from minillm.course.grading.proxies import resolve
        from minillm.course.grading.raised import ENDS

        try:
            if op == "reset":
                return self.mirror.reset()
            if op == "text":
                return str(resolve(to))
            if op == "limit":
                return resource.setrlimit(resource.RLIMIT_AS, (value, value))
            if op == "next":
                return next(self.mirror.objects[to])
            function = self.mirror.objects[to] if op == "invoke" else resolve(to)
            args, kwargs = value
            if op == "measure":
                return measure(function, args)
            return function(*args, **dict(kwargs))
        except ENDS as error:
            raise RuntimeError(f"the code asked to exit ({type(error).__name__}).") from error


def measure(function, args):  # -> bytes taken at once
    tracemalloc.start()
    try:
        function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def serve(lane):
    from minillm.course.grading.proxies import LANE
    from minillm.course.grading.wire import WallError

    LANE.lane = lane
    try:
        lane.serve()
    except WallError:
        os._exit(0)


def load(orders):  # -> what is wrong ("layers.py:3: ModuleNotFoundError: …"), or None
    """Import the submitted module, and find the function that will be called."""
    from minillm.course.exercises.overlay import Overlay
    from minillm.course.grading.proxies import resolve
    from minillm.course.grading.raised import Raised

    preload(orders["module"])
    overlay = Overlay("submission", "minillm")
    overlay.install()
    folder, own = str(overlay.impl), orders["file"]
    try:
        importlib.import_module(orders["module"])
    except BaseException as error:
        where = Raised(None, folder).place(error) or own
        if isinstance(error, SyntaxError) and (error.filename or "").startswith(folder):
            where = f"{error.filename.removeprefix(folder).lstrip('/')}:{error.lineno}"
        return f"{where}: {type(error).__name__}: {getattr(error, 'msg', None) or error}"[:500]
    for name in orders["functions"]:
        try:
            resolve(name)
        except Exception:
            return f"{own}: {name.partition(':')[2]} is gone; keep what stands around the region"
    return None


def preload(module):
    """Import what the emptied module imports, so that the submission's first line finds it."""
    try:
        importlib.import_module(module)
    except Exception:
        sys.modules.pop(module, None)


def main():
    orders = json.loads(sys.argv[1])
    connections = [socket.socket(fileno=number) for number in orders["lanes"]]
    limit(orders)
    from minillm.course.grading import jail

    wall = jail.confine(".", "tmp", hidden=orders["secret"])
    from minillm.course.grading import guard
    from minillm.course.grading.mirror import Mirror
    from minillm.course.grading.proxies import World, resolve
    from minillm.course.grading.raised import Raised
    from minillm.course.grading.wire import Lane

    world = World(Path("minillm").resolve())
    mirror, raised = Mirror(world, 1), Raised(resolve, os.path.realpath("submission"))
    performer = Performer(mirror)
    lanes = [Lane(connection, mirror, performer, raised.describe, raised.restore) for connection in connections]
    for lane in lanes[1:]:
        threading.Thread(target=serve, args=(lane,), daemon=True).start()
    empty = {"value": None, "changes": [], "seen": []}
    lanes[0].send(json.dumps(empty | {"op": "locked", "lacks": wall.lacks}).encode())
    guard.install("tmp", orders["secret"], "submission")
    lanes[0].send(json.dumps(empty | {"op": "loaded", "trouble": load(orders)}).encode())
    serve(lanes[0])


if __name__ == "__main__":
    main()
