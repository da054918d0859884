"""Take in what came across the wall: change the objects that are known, make those that are new. It believes nothing.

What is not as mirror.py says is refused with a WallError, or fails with an error of Python's that the mirror makes one of.
"""

from collections import deque

import numpy as np

from minillm.course.grading.kinds import (
    EMPTY,
    GENERATORS,
    LARGEST,
    MAPPINGS,
    NUMBERS,
    PLAIN,
    attributes,
    class_of_name,
    flat,
    made_plainly,
)
from minillm.course.grading.wire import WallError


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
        attributes_first = {"memory", "generator", "object"}, {"list", "deque"}, MAPPINGS | {"set"}  # keys are hashed by them
        for kinds in attributes_first:
            for number, kind, *state in changes:
                if kind in kinds:
                    self.fill(number, mirror.objects[number], kind, state)
        for number, *state in changes:
            mirror.looked.pop(number, None)
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
            old = attributes(thing)
            for name in old.keys() - new.keys():
                object.__delattr__(thing, name)
            for name, item in new.items():
                if name in old and old[name] is item:
                    continue
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
