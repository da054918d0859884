"""The conversation across the wall: one asks, the other answers, and may ask back before it does.

      judge                                  child
        │  call  minillm.layers:scores(q, k)   │
        │ ───────────────────────────────────▶ │
        │        get  "shape" of object 4      │      while it computes, the child may ask for what the judge keeps
        │ ◀─────────────────────────────────── │
        │  return (3, 8)                       │
        │ ───────────────────────────────────▶ │
        │                   return  object 7   │
        │ ◀─────────────────────────────────── │

A frame is JSON and raw buffers, with their lengths before them. Every frame says what has changed of the objects that both sides
know (mirror.py), so that each sees what the other did whenever the word passes to it. A lane is one connection; a thread that
asks has a lane of its own.
"""

import json
import struct
import threading

from minillm.errors import MiniLLMError

HEAD = struct.Struct(">II")  # bytes of the JSON, number of buffers
SIZE = struct.Struct(">Q")
MOST_TEXT, MOST_BYTES, MOST_BUFFERS = 1 << 25, 1 << 29, 1 << 14
LOCK = threading.RLock()  # the tables of objects are shared by all lanes of a process


class WallError(MiniLLMError):
    """A value that may not cross the wall, or came across it in no known form."""


class Closed(WallError):
    """The other side has closed."""


class Lane:
    """One connection. perform(op, to, value) answers calls of the other side; mirror: the table of common objects."""

    def __init__(self, connection, mirror, perform, describe, restore):
        self.connection, self.mirror, self.perform = connection, mirror, perform
        self.describe, self.restore = describe, restore  # an exception as plain data, and back
        self.involved, self.depth = set(), 0

    def ask(self, op, to, value):
        """Ask the other side; its answer, or what it raised. What has changed is sent before and taken in after."""
        self.depth += 1
        if self.depth == 1:
            self.involved = set()
        try:
            self.say({"op": op, "to": to}, value)
            while True:
                head, value = self.hear()
                if head["op"] == "return":
                    return value
                if head["op"] == "raise":
                    raise self.restore(head.get("error"))
                self.answer(head, value)
        finally:
            self.depth -= 1

    def serve(self):
        """Answer until the other side goes."""
        while True:
            self.involved = set()
            self.depth += 1
            self.answer(*self.hear())
            self.depth -= 1

    def answer(self, head, value):
        try:
            self.say({"op": "return"}, self.perform(head["op"], head["to"], value))
        except Closed:
            raise
        except Exception as error:
            self.say({"op": "raise", "error": self.describe(error)}, None)

    def say(self, head, value):
        with LOCK:
            text, buffers, seen = self.mirror.pack(head, value, self.involved)
            self.involved |= seen
        self.send(text, buffers)

    def hear(self):
        head, buffers = self.receive()
        with LOCK:
            value = self.mirror.unpack(head, buffers)
            self.involved.update(n for n in head["seen"] if type(n) is int and n in self.mirror.objects)
        return head, value

    def send(self, text, buffers=()):
        sizes = b"".join(SIZE.pack(len(buffer)) for buffer in buffers)
        try:
            self.connection.sendall(HEAD.pack(len(text), len(buffers)) + sizes + text)
            for buffer in buffers:
                self.connection.sendall(buffer)
        except OSError as error:
            raise Closed("the other side of the wall has gone.") from error

    def receive(self):
        length, count = HEAD.unpack(self.read(HEAD.size))
        if length > MOST_TEXT or count > MOST_BUFFERS:
            raise WallError(f"a message of {length:,} bytes and {count:,} buffers is more than may cross.")
        sizes = [SIZE.unpack(self.read(SIZE.size))[0] for _ in range(count)]
        if sum(sizes) > MOST_BYTES:
            raise WallError(f"{sum(sizes):,} bytes of arrays are more than may cross at once.")
        text = self.read(length)
        buffers = [self.read(size) for size in sizes]
        try:
            head = json.loads(text)
            if type(head) is dict and {"op", "value", "changes", "seen"} <= head.keys():
                return head, buffers
        except (ValueError, RecursionError):
            pass
        raise WallError("a message that is no JSON object of the wall.")

    def read(self, size):
        try:
            data, at = bytearray(size), 0
        except MemoryError:
            raise WallError(f"there is no memory for {size:,} bytes that came across the wall.") from None
        view = memoryview(data)
        try:
            while at < size:
                if not (n := self.connection.recv_into(view[at:])):
                    raise Closed("the other side of the wall has gone.")
                at += n
        except OSError as error:
            raise Closed("the other side of the wall has gone.") from error
        return data
