"""The process in which a submission runs. It answers calls across the wall (wire.py), and knows nothing else.

There is no test here, no oracle, no seed and no solution: the package in this box has the submitted files' regions emptied, and
the submission is laid over it. Before the first line of that is run, the process is locked up (jail.py) and bound to limits.
Whatever it does to itself afterwards, all that reaches the judge are values, and the judge believes none of them.
"""

import ast
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

LANE = threading.local()  # .lane: where this thread was asked
FORWARDED = (
    "__call__", "__getitem__", "__setitem__", "__delitem__", "__len__", "__iter__", "__next__", "__contains__", "__array__",
    "__float__", "__int__", "__index__", "__bool__",
)  # fmt: skip


def limit(orders):
    """Bind this process: nothing here can be raised again."""
    seconds, memory = int(orders["seconds"]) + 1, int(orders["memory"])
    for name, value in {
        "RLIMIT_CPU": seconds * 2,  # numba and BLAS use two threads
        "RLIMIT_AS": memory,  # macOS knows it and ignores it
        "RLIMIT_FSIZE": 64_000_000,
        "RLIMIT_NOFILE": 256,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": tasks() + 32,  # counts threads of this user everywhere; root is exempt
    }.items():
        if hasattr(resource, name):
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))


def tasks():
    """Threads of this user now, as RLIMIT_NPROC counts them; a large number where /proc is missing."""
    total, mine = 0, os.getuid()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid == mine:
                total += len(list((folder / "task").iterdir()))
        except OSError:
            continue
    return total or 4096


class Proxy:
    """Stands for an object of the judge's: what is asked of it is asked there. Its attributes may be read, not set."""

    __slots__ = ("_number",)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return ask("get", self._number, name)


def forward(special):
    def method(self, *args, **kwargs):
        kwargs.pop("copy", None)
        return ask(special, self._number, (args, tuple(kwargs.items())))

    method.__name__ = special
    return method


def ask(op, number, value):
    lane = getattr(LANE, "lane", None)
    if lane is None:
        raise RuntimeError("only the thread that was called may use the arguments of the call.")
    return lane.ask(op, number, value)


class World:
    """What has a name here: classes of minillm that the judge has too, and all functions that the judge names."""

    def __init__(self, package):
        self.package, self.names, self.classes, self.proxies = package, {}, {}, {}

    def class_name(self, cls):
        if cls not in self.names:
            self.names[cls] = self.find_name(cls)
        return self.names[cls]

    def find_name(self, cls):
        name, module = f"{cls.__module__}:{cls.__qualname__}", sys.modules.get(cls.__module__)
        if not cls.__module__.startswith("minillm.") or cls.__module__.startswith("minillm.course"):
            return None
        if getattr(module, cls.__qualname__, None) is not cls or cls.__name__ not in self.known(cls.__module__):
            return None
        return name

    def known(self, module):
        """Classes of a module as the reference has it: a submission may define more, and the judge does not know them."""
        if module not in self.classes:
            path = self.package.joinpath(*module.split(".")[1:])
            path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            tree = ast.parse(path.read_text(encoding="utf-8"))
            self.classes[module] = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        return self.classes[module]

    def class_of(self, name):
        return resolve(name)

    def may_set(self, cls, name):
        return True

    def function_name(self, x):
        return None

    def function_of(self, name):
        return resolve(name)

    def describe(self, x):
        return [type(x).__name__, callable(x), hasattr(type(x), "__next__")]

    def stand_for(self, number, description):
        name, specials = description[0], tuple(s for s in description[1] if s in FORWARDED)
        if (name, specials) not in self.proxies:
            self.proxies[name, specials] = type(name, (Proxy,), {"__slots__": ()} | {s: forward(s) for s in specials})
        proxy = object.__new__(self.proxies[name, specials])
        Proxy._number.__set__(proxy, number)
        return proxy

    def poses(self, packing, x):
        what = f"an array of {x.dtype}" if type(x).__name__ == "ndarray" else f"an object of class {type(x).__name__}"
        raise TypeError(f"{what} was returned; return plain arrays and numbers")


def resolve(name):
    """'minillm.cache.contiguous:ContiguousCache.append' -> the function."""
    module, _, path = name.partition(":")
    thing = importlib.import_module(module)
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing


class Performer:
    """Answers what the judge asks."""

    def __init__(self, mirror):
        self.mirror = mirror

    def __call__(self, op, to, value):
        from minillm.course.raised import ENDS

        try:
            if op == "forget":
                return self.mirror.forget()
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
    from minillm.course.wire import WallError

    LANE.lane = lane
    try:
        lane.serve()
    except WallError:
        os._exit(0)


def load(orders):  # -> what is wrong ("layers.py:3: ModuleNotFoundError: …"), or None
    """Import the submitted module, and find the function that will be called."""
    from minillm.course.overlay import Overlay
    from minillm.course.raised import Raised

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
    from minillm.course import jail

    wall = jail.confine(".", "tmp", hidden=orders["secret"])
    from minillm.course import guard
    from minillm.course.mirror import Mirror
    from minillm.course.raised import Raised
    from minillm.course.wire import Lane

    world = World(Path("minillm").resolve())
    mirror, raised = Mirror(world, 1), Raised(resolve, os.path.realpath("submission"))
    performer = Performer(mirror)
    lanes = [Lane(connection, mirror, performer, raised.describe, raised.restore) for connection in connections]
    for lane in lanes[1:]:
        threading.Thread(target=serve, args=(lane,), daemon=True).start()
    empty = {"value": None, "changes": [], "seen": []}
    lanes[0].send(empty | {"op": "locked", "lacks": wall.lacks}, [])
    guard.install("tmp", orders["secret"], "submission")
    lanes[0].send(empty | {"op": "loaded", "trouble": load(orders)}, [])
    serve(lanes[0])


if __name__ == "__main__":
    main()
