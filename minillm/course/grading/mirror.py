"""The same objects on both sides of the wall: what a value is made of, as plain data, and what has changed since.

A test hands a cache to `append` and looks at the cache afterwards; so an object that crosses the wall must be the same object
when it comes back. Each side numbers the objects that it has seen (the judge even, the child odd), and remembers the state that
both agreed upon:

    values     null, true, 3, 0.5, "text"; and with a tag: ["t", …] tuple, ["n", dtype, bytes] NumPy scalar, ["@", 8] object 8
    objects    [8, "list", …], [10, "object", "minillm.cache.contiguous:ContiguousCache", {attribute: value}], …
    arrays     [12, "array", 14, dtype, shape, strides, offset] in [14, "memory", buffer]: views of one memory stay views of it

`pack` walks through what a message reaches and writes down the objects whose state is not what was agreed; `unpack` changes its
own in place. Nothing is pickled, and nothing is called: a class is a name that must be allowed, and is made without __init__.
What is of no known kind (a test's own class, a closure, a generator) is `far`: it stays where it is, and the other side gets
something that asks for it across the wall (world.stand_for).
"""

import json

from minillm.course.grading.packing import Packing
from minillm.course.grading.unpacking import Unpacking
from minillm.course.grading.wire import WallError


class Mirror:
    """One side's table of objects. world: which classes and functions have names, and what stands for a far object."""

    def __init__(self, world, first):
        self.world, self.next = world, first
        self.reset()

    def reset(self):
        """Begin anew; numbers are not given twice."""
        self.objects, self.numbers, self.kinds, self.agreed = {}, {}, {}, {}
        self.looked = {}  # number -> the very things that were in it when it was last written down, and the objects it reached

    def pack(self, head, value, also=()):  # -> text of a message, its buffers, {numbers of objects that it reaches}
        """Pack a value, and the changes of all that it reaches; also: numbers of objects to look at besides."""
        packing = Packing(self)
        try:
            part = {"value": packing.value(value)}
            for number in also:
                packing.visit(number)
            part |= {"changes": packing.changes_of_all(), "seen": list(packing.seen)}
            return json.dumps(head | part, separators=(",", ":")).encode(), packing.buffers, packing.seen
        except BaseException:  # it will not be sent: nothing new is agreed
            for number, state in packing.before.items():
                self.agreed[number] = state
                self.looked.pop(number, None)
            raise

    def unpack(self, part, buffers):
        """Apply the changes, and return the value. WallError for what is not as above."""
        try:
            return Unpacking(self, buffers).all(part["changes"], part["value"])
        except WallError:
            raise
        except Exception as error:
            raise WallError(f"what came across the wall cannot be read ({type(error).__name__}: {str(error)[:100]}).") from error

    def register(self, number, key, thing, kind):
        self.objects[number], self.numbers[key], self.kinds[number] = thing, number, kind
