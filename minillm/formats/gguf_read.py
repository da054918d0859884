"""Read one GGUF file: header, metadata, table of tensors. Everything is checked here, once, before it is used.

The file may come from a stranger. So each count, length and offset is compared with the bytes that are there before anything is
allocated for it, and what does not fit is refused in one line. The layout is drawn in gguf.py; a model that is split into several
files is read part by part, each a file of its own (gguf_split.py).

A tensor's type may be newer than this table (blocks.py). Such a tensor is listed, not refused: it then takes the bytes up to the
next tensor, or to the end of the file.

Source: the specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import mmap
import os
import stat
import struct
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from minillm.errors import GGUFError
from minillm.formats.blocks import BLOCK_TYPES_BY_ID, BlockType, unknown_type
from minillm.formats.cursor import U32, UINT64, Cursor, quoted
from minillm.formats.expect import from_file

MAX_DIMS = 4
HEADER_BYTES = 4 + 4 + 8 + 8
LEAST_KEY_BYTES = 8 + 4 + 1  # empty key, type, one byte
LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # empty name, one dimension


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies, and as what. offset: in bytes, from the start of its file; part: which file of a split model."""

    name: str
    shape: tuple[int, ...]
    type: BlockType
    offset: int
    nbytes: int
    part: int = 0

    @property
    def size(self) -> int:
        """Number of weights."""
        return prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        """Bits that a weight takes; of an unknown type, at most."""
        return self.type.bits_per_weight if self.type.known else 8 * self.nbytes / self.size


@dataclass(frozen=True)
class Part:
    """One file, and where its sections end, in bytes: header, metadata, table of tensors, padding, data."""

    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    alignment: int
    key_ends: list[int]  # of each key of the metadata, with its value
    table_end: int
    data: int  # where the data begin
    nbytes: int


def read_part(path: Path) -> tuple[Part, mmap.mmap]:
    """Map a file and read what comes before its data. Raises GGUFError, in one line, for what is not what it says."""
    cursor = Cursor(path, map_file(path))
    with from_file(path):
        version, tensor_count, key_count = read_header(cursor.data)
    cursor.position = HEADER_BYTES
    metadata, key_ends = read_metadata(cursor, key_count)
    alignment = metadata.get("general.alignment", 32)
    tensors = read_tensors(cursor, tensor_count, alignment)
    ends = cursor.position, padded(cursor.position, alignment), cursor.end
    return Part(path, version, metadata, tensors, alignment, key_ends, *ends), cursor.data


def map_file(path: str | Path) -> mmap.mmap:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            status = os.fstat(file.fileno())  # without O_NONBLOCK, opening a named pipe would wait for a writer
            if not stat.S_ISREG(status.st_mode):
                raise GGUFError(f"{path}: expected a GGUF file, found something that is not a file.")
            if status.st_size == 0:
                raise GGUFError(f"{path}: expected a GGUF file, found an empty file.")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except IsADirectoryError:
        raise GGUFError(f"{path}: expected a GGUF file, found a directory.") from None
    except OSError as error:
        raise GGUFError(f"{path}: cannot be read: {error.strerror or error}.") from None


def read_header(data: bytes | mmap.mmap) -> tuple[int, int, int]:  # a file -> version, number of tensors, number of metadata keys
    """Read the header of a file, and refuse counts that cannot be true.

    | "GGUF" | version: u32 | tensors: u64 | keys: u64 |  little-endian, HEADER_BYTES in all. Behind it each tensor takes at least
    LEAST_TENSOR_BYTES and each key at least LEAST_KEY_BYTES; `most_tensors` and `most_keys` are how many of one kind the rest of
    the file, all of `data` behind the header, has room for. Raises GGUFError with the offset of the field, what was expected and
    what was found.
    """
    magic, whole = bytes(data[:4]), len(data) >= HEADER_BYTES
    check(magic == b"GGUF", 0, "magic", "b'GGUF'", repr(magic))
    check(whole, 4, "header", f"{HEADER_BYTES} bytes", f"{len(data)} before the file ends (truncated download?)")
    # BEGIN SOLUTION ex=09.1
    version, tensors, keys = struct.unpack_from("<IQQ", data, 4)
    left = len(data) - HEADER_BYTES
    most_tensors, most_keys = left // LEAST_TENSOR_BYTES, left // LEAST_KEY_BYTES
    # END SOLUTION
    turned = f"0x{version:08x}: this is a big-endian file, which is not supported"
    check(version in (2, 3), 4, "version", "2 or 3", turned if version and version % 0x10000 == 0 else f"{version:,}")
    for at, what, count, most in ((8, "tensor", tensors, most_tensors), (16, "metadata", keys, most_keys)):
        expected = f"at most {most:,}, as the file ends at {len(data):,}"
        check(count <= most, at, f"{what} count", expected, f"{count:,} (truncated download?)")
    return version, tensors, keys


def check(good: bool, at: int, field: str, expected: str, found: str) -> None:
    if not good:
        raise GGUFError(f"offset {at:,}: {field}: expected {expected}, found {found}.")


def read_metadata(cursor: Cursor, count: int) -> tuple[dict[str, Any], list[int]]:  # -> {key: value}, where each ends
    metadata, ends = {}, []
    for i in range(count):
        at = cursor.position
        key = cursor.string(f"metadata key {i + 1} of {count}")
        field = f"metadata {quoted(key)}"
        if key in metadata:
            cursor.fail(field, "each key once", "it a second time", at)
        kind = cursor.kind(field)
        at = cursor.position
        value = metadata[key] = cursor.value(kind, field)
        if key == "general.alignment" and (kind != U32 or value.bit_count() != 1):
            cursor.fail(field, "a power of two, of type 4 (u32)", f"{str(value)[:40]} of type {kind}", at)
        ends.append(cursor.position)
    return metadata, ends


def read_tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    tensors, field_offsets = {}, {}  # field_offsets: where in the table a tensor's offset is written, for messages
    for i in range(count):
        at = cursor.position
        name = cursor.string(f"name of tensor {i + 1} of {count}")
        if name in tensors:
            cursor.fail(f"tensor {quoted(name)}", "each name once", "it a second time", at)
        tensors[name] = read_tensor(cursor, name, alignment)
        field_offsets[name] = cursor.position - 8
    data = padded(cursor.position, alignment)
    in_order = sorted(tensors.values(), key=lambda info: info.offset)
    begins = [data + info.offset for info in in_order]
    end, before = data, ""
    for info, start, following in zip(in_order, begins, [*begins, cursor.end][1:], strict=True):
        at, field = field_offsets[info.name], f"tensor {quoted(info.name)}: offset"
        if start < end:
            found = f"{info.offset:,}, where {quoted(before)} still has {end - start:,} bytes"
            cursor.fail(field, "tensors that do not overlap", found, at)
        nbytes = info.nbytes if info.type.known else max(1, following - start)  # 1: whatever it is, it has some
        end, before = start + nbytes, info.name
        if end > cursor.end:
            claims = f"tensor {quoted(info.name)} claims {nbytes:,} bytes at offset {start:,}"
            raise GGUFError(f"{cursor.path}: {claims}, but the file ends at {cursor.end:,} (truncated download?).")
        tensors[info.name] = replace(info, offset=start, nbytes=nbytes)
    return tensors


def read_tensor(cursor: Cursor, name: str, alignment: int) -> TensorInfo:  # its offset counts from the start of the data
    field = f"tensor {quoted(name)}"
    at, dims = cursor.position, cursor.number(U32, f"{field}: number of dimensions")
    if not 1 <= dims <= MAX_DIMS:
        cursor.fail(f"{field}: number of dimensions", f"1 to {MAX_DIMS}", f"{dims:,}", at)
    at = cursor.position
    shape = tuple(cursor.number(UINT64, f"{field}: dimension {i}") for i in range(dims))[::-1]
    if not 0 < prod(shape) < 1 << 63:
        cursor.fail(f"{field}: dimensions", "a product of 1 to 2^63 - 1", " x ".join(f"{n:,}" for n in shape), at)
    kind = cursor.number(U32, f"{field}: type")
    type = BLOCK_TYPES_BY_ID.get(kind) or unknown_type(kind)
    if shape[-1] % type.weights:
        cursor.fail(f"{field}: dimension 0", f"a multiple of {type.weights}, the block of {type.name}", f"{shape[-1]:,}", at)
    at, offset = cursor.position, cursor.number(UINT64, f"{field}: offset")
    if offset % alignment:
        cursor.fail(f"{field}: offset", f"a multiple of {alignment:,}, the alignment", f"{offset:,}", at)
    return TensorInfo(name, shape, type, offset, type.nbytes(shape))


def padded(nbytes: int, alignment: int) -> int:
    """Round nbytes up to a multiple of the alignment."""
    return -(-nbytes // alignment) * alignment
