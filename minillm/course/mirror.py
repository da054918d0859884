"""The same objects on both sides of the wall: what a value is made of, as plain data, and what has changed since.

A test hands a cache to `append` and looks at the cache afterwards; so an object that crosses the wall must be the same object when
it comes back. Each side numbers the objects it has seen (the judge even, the child odd) and remembers the state both agreed upon:

    values     null, true, 3, 0.5, "text"; and with a tag: ["t", …] tuple, ["n", dtype, bytes] NumPy scalar, ["@", 8] object 8
    objects    [8, "list", …], [10, "object", "minillm.cache.contiguous:ContiguousCache", {attribute: value}], …
    arrays     [12, "array", 14, dtype, shape, strides, offset] in [14, "memory", buffer]: views of one memory stay views of it

`pack` walks through what a message reaches and writes down the objects whose state is not what was agreed; `unpack` changes its
own in place. Nothing is pickled, and nothing is called: a class is a name that must be allowed, and is made without __init__.
What is of no known kind (a test's own class, a closure, a generator) is `far`: it stays where it is, and the other side gets
something that asks for it across the wall (world.stand_for).
"""

import re
from collections import Counter, OrderedDict, deque
from functools import cache
from operator import is_

import numpy as np

from minillm.course.wire import WallError

PLAIN = {type(None), bool, int, float, str}
KINDS = {list: "list", dict: "dict", OrderedDict: "odict", Counter: "counter", set: "set", deque: "deque"}
EMPTY = {"list": list, "dict": dict, "odict": OrderedDict, "counter": Counter, "set": set}
MAPPINGS = {"dict", "odict", "counter"}
NUMBERS = re.compile(r"[<>|=]?([biufc])(\d{1,2})")  # dtypes that cross
SCALARS = {np.dtype(code).type for code in "?bhilqpBHILQPefdgFDG"}
POSES = (int, float, complex, str, bytes, tuple, list, dict, set, frozenset, np.ndarray, np.generic)  # and subclasses lie
GENERATORS = {cls.__name__: cls for cls in (np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64, np.random.MT19937)}
BUILTINS = {cls.__name__: cls for cls in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, object)}
LARGEST = 1 << 28  # elements of an array: a broadcast one claims any number


class Mirror:
    """One side's table of objects. world: which classes and functions have names, and what stands for a far object."""

    def __init__(self, world, first):
        self.world, self.next = world, first
        self.forget()

    def forget(self):
        """Begin anew; numbers are not given twice."""
        self.objects, self.numbers, self.kinds, self.agreed = {}, {}, {}, {}
        self.looked = {}  # number -> the very things that were in it when it was last written down, and the objects it reached

    def pack(self, value, also=()):  # -> part of a message, buffers
        """Write a value down, and what has changed of all that it reaches; also: numbers of objects to look at besides."""
        packing = Packing(self)
        try:
            part = {"value": packing.value(value)}
            for number in also:
                packing.visit(number)
            part["changes"], part["seen"] = packing.changes_of_all(), list(packing.seen)
            return part, packing.buffers
        except BaseException:  # it will not be sent: nothing new is agreed
            for number, state in packing.before.items():
                self.agreed[number] = state
            raise

    def unpack(self, part, buffers):
        """Take the changes in, and give the value back. WallError for what is not as above."""
        try:
            return Unpacking(self, buffers).all(part["changes"], part["value"])
        except WallError:
            raise
        except Exception as error:
            raise WallError(f"what came across the wall cannot be read ({type(error).__name__}: {str(error)[:100]}).") from error

    def register(self, number, key, thing, kind):
        self.objects[number], self.numbers[key], self.kinds[number] = thing, number, kind


class Packing:
    def __init__(self, mirror):
        self.mirror, self.seen, self.queue, self.buffers = mirror, set(), [], []
        self.before = {}  # what was agreed of the objects that have changed
        self.reached = []  # from the object that is being written down

    def visit(self, number):
        self.reached.append(number)
        if number not in self.seen:
            self.seen.add(number)
            self.queue.append(number)
        return ["@", number]

    def share(self, key, thing, kind):
        mirror = self.mirror
        number, mirror.next = mirror.next, mirror.next + 2
        mirror.register(number, key, thing, kind)
        return self.visit(number)

    def value(self, x):
        kind, world = type(x), self.mirror.world
        if kind in PLAIN:
            return x
        if (number := self.mirror.numbers.get(id(x))) is not None:
            return self.visit(number)
        if kind in KINDS:
            return self.share(id(x), x, KINDS[kind])
        if kind is tuple:
            return ["t", *map(self.value, x)]
        if kind in SCALARS:
            return ["n", x.dtype.str, x.tobytes().hex()]
        if kind is np.ndarray and NUMBERS.fullmatch(x.dtype.str):
            return self.share(id(x), x, "array")
        if kind in (slice, range):
            return ["s" if kind is slice else "r", *map(self.value, (x.start, x.stop, x.step))]
        if kind is frozenset:
            return ["f", *sorted(map(self.value, x), key=repr)]
        if kind in (bytes, complex):
            return ["b", x.hex()] if kind is bytes else ["c", x.real, x.imag]
        if isinstance(x, np.dtype) and NUMBERS.fullmatch(x.str):
            return ["d", x.str]
        if kind is np.random.Generator and type(x.bit_generator).__name__ in GENERATORS:
            return self.share(id(x), x, "generator")
        if isinstance(x, type) and (name := name_of_class(x, world)):
            return ["k", name]
        if isinstance(x, tuple) and hasattr(kind, "_fields") and (name := world.class_name(kind)):
            return ["N", name, *map(self.value, tuple(x))]
        if world.class_name(kind) and made_plainly(kind):
            return self.share(id(x), x, "object")
        if isinstance(x, POSES):
            return world.poses(self, x)
        return self.share(id(x), x, "name" if world.function_name(x) else "far")

    def changes_of_all(self):
        changes, mirror = [], self.mirror
        while self.queue:
            number = self.queue.pop()
            thing, kind, agreed = mirror.objects[number], mirror.kinds[number], mirror.agreed.get(number)
            if kind == "memory":
                memory = flat(thing)
                if agreed is None or memory.data != agreed:
                    self.before[number], mirror.agreed[number] = agreed, memory.tobytes()
                    changes.append([number, kind, len(self.buffers)])
                    self.buffers.append(mirror.agreed[number])
                continue
            if kind in ("far", "name", "array") and agreed is not None:
                if kind == "array":
                    self.visit(agreed[1])
                continue
            inside = contents(thing, kind)
            if inside is not None and (looked := mirror.looked.get(number)) and agreed is not None:
                if len(looked[0]) == len(inside) and all(map(is_, looked[0], inside)):  # most objects: nothing to write down
                    for other in looked[1]:
                        self.visit(other)
                    continue
            self.reached = []
            state = self.state(thing, kind)
            mirror.looked[number] = inside, self.reached
            if state != agreed:
                self.before[number], mirror.agreed[number] = agreed, state
                changes.append([number, *state])
        return changes

    def state(self, x, kind):
        value, world = self.value, self.mirror.world
        if kind == "list":
            return [kind, [item if type(item) in PLAIN else value(item) for item in x]]
        if kind in MAPPINGS:
            return [kind, [[value(key), value(item)] for key, item in x.items()]]
        if kind == "object":
            return [kind, world.class_name(type(x)), {name: value(item) for name, item in attributes(x).items()}]
        if kind == "deque":
            return [kind, x.maxlen, [value(item) for item in x]]
        if kind == "set":
            return [kind, sorted(map(value, x), key=repr)]
        if kind == "array":
            return self.array(x)
        if kind == "generator":
            return [kind, plainly(x.bit_generator.state)]
        return [kind, world.function_name(x) if kind == "name" else world.describe(x)]

    def array(self, x):
        memory = x
        while type(memory.base) is np.ndarray:
            memory = memory.base
        if flat(memory) is None:  # strides of its own over memory that is no array's: a copy must do
            memory = x = np.array(x)
        key = "memory", id(memory)
        number = self.mirror.numbers.get(key)
        at = self.share(key, memory, "memory") if number is None else self.visit(number)
        offset = x.__array_interface__["data"][0] - memory.__array_interface__["data"][0] if x.size else 0
        return ["array", at[1], x.dtype.str, list(x.shape), list(x.strides), offset, bool(x.flags.writeable)]


class Unpacking:
    def __init__(self, mirror, buffers):
        self.mirror, self.buffers = mirror, buffers

    def all(self, changes, value):
        mirror, fresh = self.mirror, []
        for number, kind, *state in changes:
            if number in mirror.objects:
                if mirror.kinds[number] != kind or kind in ("far", "name", "array"):
                    raise WallError(f"object {number} cannot become a {kind}.")
            elif type(number) is not int or number % 2 == mirror.next % 2 or number < 0:
                raise WallError(f"object {number!r} is not the other side's to make.")
            elif kind == "array":
                fresh.append((number, state))
            else:
                thing = self.make(number, kind, state)
                mirror.register(number, ("memory", id(thing)) if kind == "memory" else id(thing), thing, kind)
        for number, state in fresh:
            thing = self.array(*state)
            mirror.register(number, id(thing), thing, "array")
        for kinds in ({"memory", "generator", "object"}, {"list", "deque"}, MAPPINGS | {"set"}):  # keys may be hashed by their attributes
            for number, kind, *state in changes:
                if kind in kinds:
                    self.fill(number, mirror.objects[number], kind, state)
        for number, *state in changes:
            if state[0] != "memory":
                mirror.agreed[number] = state
        return self.value(value)

    def make(self, number, kind, state):
        if kind in EMPTY:
            return EMPTY[kind]()
        if kind == "memory":
            return np.empty(len(self.buffers[state[0]]), np.uint8)
        if kind == "object":
            cls = self.mirror.world.class_of(state[0])
            if not made_plainly(cls):
                raise WallError(f"an object of {state[0]} cannot cross.")
            return object.__new__(cls)
        if kind == "deque":
            return deque(maxlen=state[0])
        if kind == "generator":
            return np.random.Generator(GENERATORS[state[0]["bit_generator"]](0))
        if kind == "name":
            return self.mirror.world.function_of(state[0])
        if kind == "far":
            return self.mirror.world.stand_for(number, state[0])
        raise WallError(f"no objects of kind {kind!r} cross.")

    def array(self, memory, dtype, shape, strides, offset, writeable):
        if self.mirror.kinds[memory] != "memory" or not NUMBERS.fullmatch(dtype) or np.prod(shape, dtype=object) > LARGEST:
            raise WallError(f"an array of {dtype!r} and shape {str(shape)[:80]} cannot cross.")
        buffer = flat(self.mirror.objects[memory])
        if buffer.size == 0:
            return np.empty(shape, dtype)
        array = np.ndarray(tuple(shape), dtype, buffer, offset, tuple(strides))  # NumPy checks the bounds
        array.flags.writeable = bool(writeable)
        return array

    def fill(self, number, thing, kind, state):
        if kind == "memory":
            data = self.buffers[state[0]]
            flat(thing)[:] = np.frombuffer(data, np.uint8)
            self.mirror.agreed[number] = bytes(data)
        elif kind == "generator":
            thing.bit_generator.state = state[0]
        elif kind == "object":
            world, cls, new = self.mirror.world, type(thing), {name: self.value(item) for name, item in state[1].items()}
            for name in attributes(thing).keys() - new.keys():
                object.__delattr__(thing, name)
            for name, item in new.items():
                if not world.may_set(cls, name):
                    raise WallError(f"{cls.__name__}.{name[:40]} is not an attribute that may change.")
                object.__setattr__(thing, name, item)
        elif kind == "list":
            thing[:] = [self.value(item) for item in state[0]]
        elif kind == "deque":
            thing.clear()
            thing.extend([self.value(item) for item in state[1]])
        elif kind == "set":
            new = {self.value(item) for item in state[0]}
            thing.clear()
            thing |= new
        else:
            new = {self.value(key): self.value(item) for key, item in state[0]}
            thing.clear()
            thing.update(new)

    def value(self, x, depth=0):
        if type(x) in PLAIN:
            return x
        tag, *rest = x
        if tag == "@":
            return self.mirror.objects[rest[0]]
        if depth > 60:
            raise WallError("tuples within tuples, more than 60 deep.")
        if tag in ("t", "f"):
            return (tuple if tag == "t" else frozenset)([self.value(item, depth + 1) for item in rest])
        if tag == "n":
            if not NUMBERS.fullmatch(rest[0]):
                raise WallError(f"a number of type {rest[0]!r} cannot cross.")
            return np.frombuffer(bytes.fromhex(rest[1]), rest[0])[0]
        if tag in ("s", "r"):
            return (slice if tag == "s" else range)(*[self.value(item, depth + 1) for item in rest])
        if tag == "b":
            return bytes.fromhex(rest[0])
        if tag == "c":
            return complex(*rest)
        if tag == "d" and NUMBERS.fullmatch(rest[0]):
            return np.dtype(rest[0])
        if tag == "k":
            return class_of_name(rest[0], self.mirror.world)
        if tag == "N":
            cls = self.mirror.world.class_of(rest[0])
            if not (issubclass(cls, tuple) and len(cls._fields) == len(rest) - 1):
                raise WallError(f"{rest[0]} is no named tuple of {len(rest) - 1}.")
            return tuple.__new__(cls, [self.value(item, depth + 1) for item in rest[1:]])
        raise WallError(f"no value begins with {str(tag)[:20]!r}.")


def flat(array):  # -> (bytes,) uint8, the same memory; None where there are holes in it
    turned = array.transpose(sorted(range(array.ndim), key=lambda axis: -array.strides[axis]))
    return turned.reshape(-1).view(np.uint8) if turned.flags.c_contiguous else None


def made_plainly(cls):
    """Is an instance nothing but its attributes?"""
    return isinstance(cls, type) and cls.__new__ is object.__new__ and not issubclass(cls, BaseException)


@cache
def slots(cls):  # -> names
    found = []
    for one in cls.__mro__:
        names = one.__dict__.get("__slots__", ())
        found += (names,) if isinstance(names, str) else names
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def attributes(thing):  # -> {name: value}
    found, missing = dict(getattr(thing, "__dict__", {})), object()
    for name in slots(type(thing)):
        if (item := getattr(thing, name, missing)) is not missing:
            found[name] = item
    return found


def contents(thing, kind):
    """The very things that an object holds, in order: while they are the same, so is what is written of it. None: look anew."""
    if kind == "object":
        names, rest = slots(type(thing)), getattr(thing, "__dict__", {})
        try:
            return [*rest, *rest.values(), *[getattr(thing, name) for name in names]]
        except AttributeError:
            return None
    if kind in MAPPINGS:
        return [*thing, *thing.values()]
    return list(thing) if kind == "list" else None


def plainly(state):
    """A bit generator's state, without arrays."""
    if isinstance(state, dict):
        return {key: plainly(item) for key, item in state.items()}
    return state.tolist() if isinstance(state, np.ndarray | np.generic) else state


def name_of_class(cls, world):
    if BUILTINS.get(cls.__name__) is cls:
        return f"builtins:{cls.__name__}"
    return f"numpy:{np.dtype(cls).str}" if cls in SCALARS else world.class_name(cls)


def class_of_name(name, world):
    module, _, rest = name.partition(":")
    if module == "builtins":
        return BUILTINS[rest]
    return np.dtype(rest).type if module == "numpy" and NUMBERS.fullmatch(rest) else world.class_of(name)
