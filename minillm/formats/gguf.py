"""GGUF: one file with everything a model needs, laid out so that it can be used where it lies.

Metadata first (architecture, shape, tokenizer, chat template), then a table of tensors, then their bytes, aligned. The file
is mapped into memory, not read: opening touches only the first part, a tensor's pages are fetched when it is used, and two
processes with one model share one copy.

    | "GGUF" | version: u32 | tensors: u64 | keys: u64 |
    | key: string | type: u32 | value |                                              x keys
    | name: string | dims: u32 | dim: u64 x dims | type: u32 | offset: u64 |         x tensors
    | padding to the alignment, 32 or general.alignment |
    | data of a tensor | padding | data of a tensor | ...                            offsets count from here

    string:  | length: u64 | UTF-8 |          array:  | type: u32 | count: u64 | elements |

Dimensions are written fastest first, ggml's order; `shape` here is NumPy's, (rows, columns).

Source: the specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md. Version 2 differs from 3 only in what it does not
say about byte order; version 1, of 2023, had 32-bit counts and is refused.
"""

import mmap
import os
import stat
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minillm.errors import GGUFError
from minillm.formats import blocks
from minillm.formats.blocks import BLOCK_TYPES_BY_ID, BlockType
from minillm.formats.cursor import U32, UINT64, Cursor, quoted

MAX_DIMS = 4
LEAST_KEY_BYTES = 8 + 4 + 1  # empty key, type, one byte
LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # empty name, one dimension


class Verbatim(NamedTuple):
    """A metadata value as it stands in a file: the number of its type, and its bytes."""

    kind: int
    data: bytes


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies, and as what. offset: from the start of the file, in bytes."""

    name: str
    shape: tuple[int, ...]
    type: BlockType
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return prod(self.shape)


@dataclass
class GGUFFile:
    """An open file. Metadata are Python values: numbers, str, list of str, NumPy array for an array of numbers."""

    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    alignment: int
    nbytes: int
    mapped: mmap.mmap | None

    @property
    def architecture(self) -> Any:
        """ "llama", "qwen2", ..."""
        name = self.metadata.get("general.architecture")
        if not isinstance(name, str):
            found = "none" if name is None else f"a value of type {type(name).__name__}"
            raise GGUFError(f"{self.path}: metadata 'general.architecture': expected a string, found {found}.")
        return name

    def verbatim(self) -> dict[str, Verbatim]:
        """Read all metadata as they stand, for a writer that copies them: an int of `metadata` no longer knows its type."""
        if self.mapped is None:
            raise ValueError(f"{self.path} is closed")
        cursor, found = Cursor(self.path, self.mapped), {}
        _, _, count = read_header(cursor)
        for _ in range(count):
            key = cursor.string("metadata key")
            kind, at = cursor.kind(key), cursor.position
            cursor.value(kind, key)
            found[key] = Verbatim(kind, cursor.data[at : cursor.position])
        return found

    def raw(self, name: str) -> np.ndarray:  # -> (nbytes,) uint8
        """Return the bytes of a tensor: a read-only view of the mapped file, no copy. It stays good after close()."""
        if self.mapped is None:
            raise ValueError(f"{self.path} is closed")
        info = self.tensor(name)
        return np.frombuffer(self.mapped, np.uint8, info.nbytes, info.offset)

    def dequantize(self, name: str, out: np.ndarray | None = None) -> np.ndarray:  # -> shape of the tensor, float32
        """Dequantize the weights of a tensor; `out` as in blocks.dequantize."""
        info = self.tensor(name)
        try:
            return blocks.dequantize(self.raw(name), info.type, info.shape, out)
        except GGUFError as error:
            raise GGUFError(f"{self.path}: tensor {quoted(name)}: {error}") from None

    def tensor(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise GGUFError(f"{self.path}: no tensor {quoted(name)} among its {len(self.tensors):,}.")
        return self.tensors[name]

    def release_pages(self) -> None:
        """Give the pages that were read back to the system (MADV_DONTNEED); a later read loads them from the file again."""
        if self.mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Close the file. The system unmaps it when the last view of a tensor is gone too."""
        self.mapped = None

    def __enter__(self) -> "GGUFFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_gguf(path: str | Path) -> GGUFFile:
    """Map a GGUF file and read its metadata and table of tensors; all of it is checked here, once.

    Raises GGUFError, in one line, for a file that cannot be read or is not what it says.
    """
    path = Path(path)
    cursor = Cursor(path, map_file(path))
    version, tensor_count, key_count = read_header(cursor)
    metadata = read_metadata(cursor, key_count)
    alignment = metadata.get("general.alignment", 32)
    tensors = read_tensors(cursor, tensor_count, alignment)
    return GGUFFile(path, version, metadata, tensors, alignment, cursor.end, cursor.data)


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


def read_header(cursor: Cursor) -> tuple[int, int, int]:  # -> version, number of tensors, number of metadata keys
    magic = bytes(cursor.data[:4])
    if magic != b"GGUF":
        cursor.fail("magic", "b'GGUF'", repr(magic))
    cursor.position = 4
    version = cursor.number(U32, "version")
    if version and version % 0x10000 == 0:
        found = f"0x{version:08x}: this is a big-endian file, which is not supported"
        cursor.fail("version", "2 or 3", found, at=4)
    if version not in (2, 3):
        cursor.fail("version", "2 or 3", f"{version:,}", at=4)
    return version, cursor.count(LEAST_TENSOR_BYTES, "tensor count"), cursor.count(LEAST_KEY_BYTES, "metadata count")


def read_metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    metadata = {}
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
    return metadata


def read_tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    tensors, field_offsets = {}, {}  # field_offsets: where in the table a tensor's offset is written, for messages
    for i in range(count):
        at = cursor.position
        name = cursor.string(f"name of tensor {i + 1} of {count}")
        if name in tensors:
            cursor.fail(f"tensor {quoted(name)}", "each name once", "it a second time", at)
        tensors[name] = read_tensor(cursor, name, alignment)
        field_offsets[name] = cursor.position - 8
    data = -(-cursor.position // alignment) * alignment
    end, before = data, ""
    for info in sorted(tensors.values(), key=lambda info: info.offset):
        start, at = data + info.offset, field_offsets[info.name]
        field = f"tensor {quoted(info.name)}: offset"
        if start < end:
            found = f"{info.offset:,}, where {quoted(before)} still has {end - start:,} bytes"
            cursor.fail(field, "tensors that do not overlap", found, at)
        end, before = start + info.nbytes, info.name
        if end > cursor.end:
            claims = f"tensor {quoted(info.name)} claims {info.nbytes:,} bytes at offset {start:,}"
            raise GGUFError(f"{cursor.path}: {claims}, but the file ends at {cursor.end:,} (truncated download?).")
        tensors[info.name] = replace(info, offset=start)
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
    kind_at = cursor.position
    kind = cursor.number(U32, f"{field}: type")
    if kind not in BLOCK_TYPES_BY_ID:
        known = ", ".join(f"{t.id} {t.name}" for t in BLOCK_TYPES_BY_ID.values() if t.decodable)
        cursor.fail(f"{field}: type", f"one of {known}", f"{kind:,}", kind_at)
    type = BLOCK_TYPES_BY_ID[kind]
    if shape[-1] % type.weights:
        cursor.fail(f"{field}: dimension 0", f"a multiple of {type.weights}, the block of {type.name}", f"{shape[-1]:,}", at)
    at, offset = cursor.position, cursor.number(UINT64, f"{field}: offset")
    if offset % alignment:
        cursor.fail(f"{field}: offset", f"a multiple of {alignment:,}, the alignment", f"{offset:,}", at)
    return TensorInfo(name, shape, type, offset, type.nbytes(shape))
