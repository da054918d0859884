"""Write a value down as plain data, and what has changed of all that it reaches (mirror.py says in which form)."""

from operator import is_

import numpy as np

from minillm.course.grading.kinds import (
    GENERATORS,
    KINDS,
    MAPPINGS,
    NUMBERS,
    PLAIN,
    POSES,
    SCALARS,
    attributes,
    contents,
    flat,
    made_plainly,
    name_of_class,
    plainly,
)  # fmt: skip


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
            if agreed is not None and self.as_it_was(number, inside):
                continue
            self.reached = []
            state = self.state(thing, kind)
            mirror.looked[number] = inside, self.reached
            if state != agreed:
                self.before[number], mirror.agreed[number] = agreed, state
                changes.append([number, *state])
        return changes

    def as_it_was(self, number, inside):
        """Whether an object holds the very things that it held when it was last packed. Most do; go on to what they reach."""
        before, reached = self.mirror.looked.get(number) or (None, ())
        if before is None or inside is None or len(before) != len(inside) or not all(map(is_, before, inside)):
            return False
        for other in reached:
            self.visit(other)
        return True

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
