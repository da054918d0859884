"""The judge's side of the wall: it starts the child that runs the submission, calls it, and answers what it asks back.

A call crosses with its arguments, and comes back with a value or an exception. The child is started anew where it has died, hung,
or broken the rules; what it was doing then has failed, and the next test begins with a fresh one.
"""

import contextlib
import functools
import json
import operator
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path

from minillm.course.grading.far import Far, FarCallable, FarIterator
from minillm.course.grading.kinds import slots
from minillm.course.grading.launch import environment
from minillm.course.grading.mirror import Mirror
from minillm.course.grading.proxies import FORWARDED
from minillm.course.grading.raised import Raised
from minillm.course.grading.wire import Closed, Lane, WallError

LANES = 5  # threads of a test that may call at the same time
SPECIALS = {"__getitem__": operator.getitem, "__setitem__": operator.setitem, "__delitem__": operator.delitem, "__len__": len,
            "__iter__": iter, "__next__": next, "__contains__": operator.contains, "__float__": float, "__int__": int,
            "__index__": operator.index, "__bool__": bool}  # fmt: skip


class ChildEnded(BaseException):
    """The child has ended. Not an Exception: hypothesis must not retry what kills."""

    __module__ = "builtins"


class World:
    """The names in the judge: the classes and functions of the modules of minillm that are loaded, the course's apart."""

    def __init__(self, wall):
        self.wall, self.names, self.settable = wall, {}, {}

    def class_name(self, cls):
        if cls not in self.names:
            self.names[cls] = self.find_name(cls)
        return self.names[cls]

    def find_name(self, thing):
        module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
        if not isinstance(module, str) or not module.startswith("minillm.") or module.startswith("minillm.course"):
            return None
        with contextlib.suppress(WallError):
            return f"{module}:{name}" if self.look_up(f"{module}:{name}") is thing else None
        return None

    def look_up(self, name):
        module, _, path = name.partition(":")
        found = sys.modules.get(module) if module.startswith("minillm.") and not module.startswith("minillm.course") else None
        for part in path.split("."):
            found = None if found is None or part.startswith("_") else getattr(found, part, None)
        if found is None:
            raise WallError(f"the judge knows no {name[:80]!r}.")
        return found

    def class_of(self, name):
        found = self.look_up(name)
        if not isinstance(found, type) or self.class_name(found) != name:  # a module also holds what it has imported
            raise WallError(f"{name[:80]!r} is no class of minillm's.")
        return found

    def may_set(self, cls, name):
        """Whether the child may set this attribute. Not where it would hide a method or property of the class."""
        if (cls, name) not in self.settable:
            there = next((one.__dict__[name] for one in cls.__mro__ if name in one.__dict__), None)
            hidden = callable(there) or hasattr(type(there), "__get__")
            plain = isinstance(there, type | functools.cached_property) or not hidden
            allowed = name.isidentifier() and not name.startswith("__") and (plain or name in set(slots(cls)))
            self.settable[cls, name] = allowed
        return self.settable[cls, name]

    def function_name(self, x):
        if name := getattr(x, "submitted", None):
            return name
        return self.find_name(x) if isinstance(x, types.FunctionType) or hasattr(x, "py_func") else None

    def function_of(self, name):
        raise WallError("the child cannot name functions.")

    def describe(self, x):
        specials = [name for name in FORWARDED if hasattr(type(x), name)] if not isinstance(x, type) else ["__call__"]
        return [type(x).__name__ if type(x).__name__.isidentifier() else "object", specials]

    def stand_for(self, number, description):
        name, callable_, iterates = description
        base = FarCallable if callable_ else FarIterator if iterates else Far
        return type(name if str(name).isidentifier() else "object", (base,), {})(self.wall, number)

    def poses(self, packing, x):
        return packing.share(id(x), x, "far")


class Wall:
    """Starts children and calls them. orders: what a child is to load, and under which limits; box: its folder."""

    def __init__(self, box, orders, send=None):
        self.box, self.orders, self.send = box, orders, send or (lambda event: None)
        self.world, self.child, self.calling = World(self), None, ""

    def start(self):
        pairs = [socket.socketpair() for _ in range(LANES)]
        ours, theirs = zip(*pairs, strict=True)
        numbers = [one.fileno() for one in theirs]
        command = [sys.executable, "-m", "minillm.course.grading.child", json.dumps(self.orders | {"lanes": numbers})]
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self.child = subprocess.Popen(command, cwd=self.box.root, env=environment(self.box), pass_fds=numbers,
                                      start_new_session=True, **quiet)  # fmt: skip
        for one in theirs:
            one.close()
        self.mirror, raised = Mirror(self.world, 0), Raised(self.world.class_of)
        self.lanes = [Lane(one, self.mirror, self.perform, raised.describe, raised.restore) for one in ours]
        self.free, self.threads, self.loaded, self.died, self.trouble = self.lanes[1:], threading.local(), False, False, None

    def ready(self):
        """Wait until the submission is loaded, in a fresh child if there is none. -> what is wrong ("layers.py:3: …"), or None"""
        if self.child is None:
            self.start()
        if not self.loaded:
            try:
                locked, _ = self.lanes[0].receive()  # said before a line of the submission has run
                self.send({"event": "wall", "lacks": locked["lacks"]})
                self.trouble = self.lanes[0].receive()[0]["trouble"]
                self.trouble = self.trouble and str(self.trouble)[:600]
            except (WallError, KeyError):
                self.trouble, self.died = f"{self.orders['file']}: {self.ended('while it was loaded')}", True
            self.loaded = True
        return self.trouble

    def ended(self, when):
        """Say how the child ended; it is gone afterwards."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(0.5)
        code = self.child.poll()
        self.kill()
        how = "" if code is None else f" ({signal.Signals(-code).name if code < 0 else code})"
        return f"the process ended{how} {when}: does the code exit, or use up its time or memory?"

    def kill(self):
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
            for lane in self.lanes:
                lane.connection.close()
            self.child = None

    def reset(self):
        """Reset the numbers of objects, between tests."""
        if self.child is not None and self.loaded and not self.trouble:
            self.ask("reset", None, None)
            self.mirror.reset()

    def call(self, name, args, kwargs):
        self.calling = name.partition(":")[2]
        return self.ask("call", name, (args, tuple(kwargs.items())))

    def ask(self, op, to, value):
        if self.child is None:
            raise ChildEnded("the process ended earlier in this test")
        try:
            with self.lane() as lane:
                return lane.ask(op, to, value)
        except Closed:
            raise ChildEnded(self.ended(f"in {self.calling}")) from None
        except WallError as error:
            self.kill()
            raise ChildEnded(f"{self.calling} answered with what no function returns: {error}") from None

    def fits(self, name, most, *args):
        """Whether a call needs at most so many bytes more than the child holds. It gives up the rest for good; that is tested."""
        if not (about := Path(f"/proc/{self.child.pid}")).exists():
            return self.ask("measure", name, (args, ())) < most  # macOS: the child's own word
        room = int((about / "statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + most
        self.ask("limit", None, room)
        rows = (about / "limits").read_text().splitlines()
        if [row.split()[3:5] for row in rows if row.startswith("Max address space")] != [[str(room), str(room)]]:
            return False
        try:
            self.call(name, args, {})
        except MemoryError:
            return False
        finally:
            self.kill()
        return True

    @contextlib.contextmanager
    def lane(self):
        """Return the lane of this thread: the main thread has the first; another takes a free one until its call is over."""
        held = getattr(self.threads, "lane", None)
        if held is not None or threading.current_thread() is threading.main_thread():
            yield held or self.lanes[0]
            return
        self.threads.lane = self.free.pop()
        try:
            yield self.threads.lane
        finally:
            self.free.append(self.threads.lane)
            self.threads.lane = None

    # --- what the child may ask for -----------------------------------------------------------------------------------------

    def perform(self, op, to, value):
        """Run a method of a test's object that was given to the child."""
        if type(to) is not int or self.mirror.kinds.get(to) != "far" or to % 2:
            raise WallError(f"object {str(to)[:20]} may not be asked.")
        thing = self.mirror.objects[to]
        if op == "get":
            return self.get(thing, value)
        args, kwargs = value
        if op == "__call__":
            return thing(*args, **dict(kwargs))
        if op == "__array__":
            import numpy as np

            return np.array(thing, *args[:1])
        if op not in SPECIALS or not hasattr(type(thing), op):
            raise WallError(f"{str(op)[:20]} may not be asked.")
        return SPECIALS[op](thing, *args)

    def get(self, thing, name):
        """Read an attribute: a copy of what could be changed. A class may say which (for_submissions = ("shape", …))."""
        import numpy as np

        seen = getattr(type(thing), "for_submissions", None)
        closed = isinstance(thing, types.ModuleType | types.FunctionType | types.MethodType | type)
        if closed or type(name) is not str or name.startswith("_") or (seen is not None and name not in seen):
            raise AttributeError(f"{type(thing).__name__!r} object has no attribute {str(name)[:40]!r}")
        found = getattr(thing, name)
        if isinstance(found, np.ndarray):
            return np.array(found)
        return type(found)(found) if type(found) in (list, dict, set) else found
