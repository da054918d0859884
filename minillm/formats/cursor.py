"""A cursor over untrusted bytes: read a number, a string, an array, and never past the end.

An untrusted file may claim a string of 2**63 bytes. So nothing is read, and nothing allocated, before the claim is
compared with the bytes that are left: memory and time stay in proportion to the file. What does not fit is an error that
says where (offset), what (field), what was expected and what was found.
"""

import struct
from mmap import mmap
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from minillm.errors import GGUFError

MAX_NESTING = 4  # arrays of arrays; the deepest in use is 1
U64 = struct.Struct("<Q")

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, UINT64, INT64, F64 = range(13)
NUMBERS = {  # value type: (struct code, NumPy dtype)
    U8: ("<B", "u1"),
    I8: ("<b", "i1"),
    U16: ("<H", "<u2"),
    I16: ("<h", "<i2"),
    U32: ("<I", "<u4"),
    I32: ("<i", "<i4"),
    F32: ("<f", "<f4"),
    BOOL: ("<B", "u1"),
    UINT64: ("<Q", "<u8"),
    INT64: ("<q", "<i8"),
    F64: ("<d", "<f8"),
}
LEAST_BYTES = {STRING: 8, ARRAY: 12} | {kind: struct.calcsize(code) for kind, (code, _) in NUMBERS.items()}


def quoted(text: str) -> str:
    """Quote a name from the file, fit for one line of a message."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


class Cursor:
    """A position in the bytes of a file. Every method reads at the position and moves it behind what it read."""

    def __init__(self, path: str | Path, data: mmap) -> None:
        self.path, self.data, self.end, self.position = path, data, len(data), 0

    def fail(self, field: str, expected: str, found: object, at: int | None = None) -> NoReturn:
        at = self.position if at is None else at
        raise GGUFError(f"{self.path}: offset {at:,}: {field}: expected {expected}, found {found}.")

    def need(self, nbytes: int, field: str) -> None:
        left = self.end - self.position
        if nbytes > left:
            self.fail(field, f"{nbytes:,} bytes", f"{left:,} before the file ends at {self.end:,} (truncated download?)")

    def count(self, least_bytes: int, field: str) -> int:
        """Read a number of things that follow, each of at least so many bytes."""
        at, count = self.position, self.number(UINT64, field)
        most = (self.end - self.position) // least_bytes
        if count > most:
            self.fail(field, f"at most {most:,}, as the file ends at {self.end:,}", f"{count:,} (truncated download?)", at)
        return count

    def number(self, kind: int, field: str) -> Any:
        code, _ = NUMBERS[kind]
        self.need(LEAST_BYTES[kind], field)
        (value,) = struct.unpack_from(code, self.data, self.position)
        if kind == BOOL:
            if value > 1:
                self.fail(field, "0 or 1", value)
            value = bool(value)
        self.position += LEAST_BYTES[kind]
        return value

    def string(self, field: str) -> str:
        return self.strings(1, field)[0]

    def strings(self, count: int, field: str) -> list[str]:
        """Read `count` strings. A vocabulary has 100,000: this loop is most of the time it takes to open a file."""
        data, end, length = self.data, self.end, U64.unpack_from
        start, out = self.position, []
        try:
            for _ in range(count):
                self.position = start
                start += 8
                if start > end:
                    self.need(8, f"{field}: length")
                stop = start + length(data, start - 8)[0]
                if stop > end:
                    found = f"{stop - start:,} (truncated download?)"
                    self.fail(f"{field}: length", f"at most {end - start:,}, the bytes left", found)
                out.append(data[start:stop].decode())
                start = stop
        except UnicodeDecodeError as error:
            self.fail(field, "UTF-8", f"byte 0x{error.object[error.start]:02x}", start + error.start)
        self.position = start
        return out

    def value(self, kind: int, field: str, depth: int = 0) -> Any:
        """Read one metadata value: int, float, bool, str; an array of numbers as NumPy array, of anything else as list."""
        if kind == STRING:
            return self.string(field)
        if kind == ARRAY:
            return self.array(field, depth)
        return self.number(kind, field)

    def kind(self, field: str) -> int:
        at, kind = self.position, self.number(U32, f"{field}: type")
        if kind not in LEAST_BYTES:
            self.fail(f"{field}: type", f"0 to {max(LEAST_BYTES)}", f"{kind:,}", at)
        return kind

    def array(self, field: str, depth: int) -> Any:
        if depth >= MAX_NESTING:
            self.fail(field, f"at most {MAX_NESTING} arrays in one another", depth + 1)
        kind = self.kind(f"{field}: element")
        count = self.count(LEAST_BYTES[kind], f"{field}: count")
        if kind == STRING:
            return self.strings(count, field)
        if kind == ARRAY:
            return [self.array(field, depth + 1) for _ in range(count)]
        _, dtype = NUMBERS[kind]
        values = np.frombuffer(self.data, dtype, count, self.position).copy()  # a view would keep the file mapped
        if kind == BOOL:
            if (values > 1).any():
                first = int((values > 1).argmax())
                self.fail(field, "0 or 1", int(values[first]), self.position + first)
            values = values.view(np.bool_)
        self.position += values.nbytes
        return values
