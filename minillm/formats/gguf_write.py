"""Write a GGUF file: metadata, table of tensors, then their bytes, each on its alignment. The layout is drawn in gguf.py.

Everything before the data is small, so it is built in memory first, which settles where each tensor will lie: type and shape
say how many bytes it takes before there are any. The tensors then go out one after another, chunk by chunk, so what is made of a
model (another type, say) never lies in memory beside it. The file appears when all of it is on the disk (files.py): a reader of
`path` finds the old file or the new one, never half of one.

    offset of tensor i = Σ_{j<i} ⌈nbytes_j / alignment⌉ · alignment        counted from the start of the data

Source: the specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from minillm.errors import GGUFError
from minillm.files import replacing
from minillm.formats.blocks import BLOCK_TYPES, BlockType
from minillm.formats.cursor import ARRAY, BOOL, F32, I32, INT64, MAX_NESTING, NUMBERS, STRING, U32, U64, UINT64, quoted
from minillm.formats.gguf import MAX_DIMS, Verbatim
from minillm.formats.gguf_read import padded

LONGEST_NAME = 63  # bytes of a tensor's name; ggml keeps 64 and a zero ends it
LONGEST_KEY = 65_535
INTEGERS = ((U32, 0, 2**32), (I32, -(2**31), 2**31), (INT64, -(2**63), 2**63), (UINT64, 0, 2**64))
KINDS = {np.dtype(code): kind for kind, (_, code) in NUMBERS.items() if kind != BOOL} | {np.dtype(bool): BOOL}


@dataclass(frozen=True)
class Streamed:
    """A tensor whose bytes are made as they are written. chunks() gives them in order, in contiguous arrays of any size.

    What chunks() raises ends the writing, and no file appears.
    """

    type: BlockType
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[np.ndarray]]


def write_gguf(path: str | Path, metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Write a file, version 3; one that was there is replaced.

    metadata: {key: value}, general.architecture among them. A Python int becomes u32 where it fits, else i32, i64, u64; a list
        of them i32 where all fit, as llama.cpp wants token types; a float f32. What must have another type comes as a
        NumPy scalar or array, which keeps its own, or as gguf.Verbatim from another file. bool, str and lists of them are
        themselves; lists may be nested. general.alignment, where given, is obeyed.
    tensors: {name: array of float32 or float16, or (raw bytes, BlockType, shape), or Streamed}, in the order in which they will
        lie.

    Raises GGUFError for what the format cannot hold, before anything is written, and where the file cannot be written.
    """
    alignment = alignment_of(metadata)
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        what = f"metadata {quoted(str(key))}"
        kind, data = encoded(value, what)
        head += [text(key, what, LONGEST_KEY), struct.pack("<I", kind), data]
    checked = []
    for name, tensor in tensors.items():
        what = f"tensor {quoted(str(name))}"
        streamed = as_stored(tensor, what)
        checked.append((what, name, streamed, streamed.type.nbytes(streamed.shape)))
    for (what, name, streamed, _), offset in zip(checked, offsets([nbytes for *_, nbytes in checked], alignment), strict=True):
        dims = streamed.shape[::-1]
        head += [text(name, what, LONGEST_NAME), struct.pack("<I", len(dims)), struct.pack(f"<{len(dims)}Q", *dims)]
        head.append(struct.pack("<IQ", streamed.type.id, offset))
    start = np.frombuffer(b"".join(head), np.uint8)
    with replacing(path, GGUFError) as file:
        parts = [(what, nbytes, streamed.chunks) for what, _, streamed, nbytes in checked]
        for what, nbytes, chunks in [("header", start.nbytes, lambda: [start]), *parts]:
            written = 0
            for chunk in chunks():
                written += file.write(chunk.reshape(-1).view(np.uint8).data)
            if written != nbytes:
                raise GGUFError(f"{what}: expected chunks of {nbytes:,} bytes in all, found {written:,}.")
            file.write(bytes(padded(nbytes, alignment) - nbytes))


def alignment_of(metadata: Mapping[str, Any]) -> int:
    """Find on how many bytes tensors are aligned. GGUFError for what is no power of two; below 8 only another file's own."""
    found, least = metadata.get("general.alignment", 32), 8
    if isinstance(found, Verbatim) and found.kind == U32:
        found, least = int.from_bytes(found.data, "little"), 1
    if type(found) not in (int, np.uint32) or not least <= found < 2**32 or int(found).bit_count() != 1:
        raise GGUFError(f"metadata 'general.alignment': expected a power of two from 8 to 2^31, found {str(found)[:40]}.")
    return int(found)


def offsets(sizes: Sequence[int], alignment: int) -> list[int]:  # bytes of each tensor -> where each begins
    """Lay tensors out one after another, each at the next multiple of the alignment behind the one before.

    Offsets count from the start of the data, which is aligned itself, so the first is 0. A tensor that ends on a multiple is
    followed at once; all others by zeros. sizes may be any that can be iterated over.
    """
    # BEGIN SOLUTION ex=09.5
    found, end = [], 0
    for nbytes in sizes:
        found.append(end)
        end += padded(nbytes, alignment)
    # END SOLUTION
    return found


def as_stored(tensor: Any, what: str) -> Streamed:  # array, (raw, type, shape) or Streamed -> Streamed
    """Check what a tensor says of itself. Nothing is converted yet: an array of another order is copied when its turn comes."""
    raw = None
    if isinstance(tensor, Streamed):
        type_, shape, chunks = tensor.type, tuple(tensor.shape), tensor.chunks
    elif isinstance(tensor, tuple):
        raw, type_, shape = np.asarray(tensor[0]), tensor[1], tuple(tensor[2])

        def chunks() -> Iterable[np.ndarray]:
            return [np.ascontiguousarray(raw)]
    else:
        name = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}.get(getattr(tensor, "dtype", None))
        if name is None:
            found = getattr(tensor, "dtype", type(tensor).__name__)
            raise GGUFError(f"{what}: expected an array of float32 or float16, found {found}.")
        type_, shape = BLOCK_TYPES[name], tensor.shape

        def chunks() -> Iterable[np.ndarray]:
            return [np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))]

    if not 1 <= len(shape) <= MAX_DIMS:
        raise GGUFError(f"{what}: expected 1 to {MAX_DIMS} dimensions, found {len(shape)}.")
    if not 0 < prod(shape) < 1 << 63 or min(shape) < 1:
        raise GGUFError(f"{what}: expected 1 to 2^63 - 1 weights, found shape {shape}.")
    if shape[-1] % type_.weights:
        raise GGUFError(f"{what}: expected rows of a multiple of {type_.weights}, {type_.name}'s block, found {shape[-1]:,}.")
    if raw is not None and raw.nbytes != type_.nbytes(shape):
        raise GGUFError(f"{what}: {type_.name} of shape {shape} takes {type_.nbytes(shape):,} bytes, found {raw.nbytes:,}.")
    return Streamed(type_, shape, chunks)


def encoded(value: Any, what: str, depth: int = 0) -> tuple[int, bytes]:  # -> value type, bytes
    """Encode a metadata value."""
    if isinstance(value, Verbatim):
        return value
    if isinstance(value, str):
        return STRING, text(value, what)
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype in KINDS:
        kind = KINDS[value.dtype]
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        return ARRAY, struct.pack("<IQ", kind, len(value)) + data
    if isinstance(value, (list, tuple)):
        if depth >= MAX_NESTING:
            raise GGUFError(f"{what}: expected at most {MAX_NESTING} arrays in one another, found {depth + 1}.")
        kind, data = elements(value, what, depth)
        return ARRAY, struct.pack("<IQ", kind, len(value)) + data
    kind = number_kind([value], what)
    return kind, packed(kind, [value])


def elements(values: Sequence, what: str, depth: int) -> tuple[int, bytes]:  # -> type of the elements, their bytes
    if all(isinstance(v, str) for v in values):  # also where there is none
        return STRING, b"".join(text(v, what) for v in values)
    if all(isinstance(v, (list, tuple, np.ndarray)) for v in values):
        return ARRAY, b"".join(encoded(v, what, depth + 1)[1] for v in values)
    kind = number_kind(values, what, array=True)
    return kind, packed(kind, values)


def packed(kind: int, values: Sequence) -> bytes:
    return np.array(values, NUMBERS[kind][1]).tobytes()


def number_kind(values: Sequence, what: str, array: bool = False) -> int:  # -> the value type that holds all of them
    """See write_gguf for the rule. GGUFError for mixed types, for what is no number, and for an integer beyond 64 bits."""
    types = sorted({type(v).__name__ for v in values})
    if len(types) > 1:
        raise GGUFError(f"{what}: expected values of one type, found {' and '.join(types)}.")
    if isinstance(values[0], np.generic) and values[0].dtype in KINDS:
        return KINDS[values[0].dtype]
    if types == ["bool"]:
        return BOOL
    if types == ["float"]:
        largest = float(np.finfo(np.float32).max)
        if any(largest < abs(v) < float("inf") for v in values):
            raise GGUFError(f"{what}: expected at most {largest:.4g}, the largest float32, found {max(map(abs, values)):.4g}.")
        return F32
    if types != ["int"]:
        raise GGUFError(f"{what}: expected a number, bool, str, list or NumPy array of these, found {types[0]}.")
    kinds = [INTEGERS[1], INTEGERS[0], *INTEGERS[2:]] if array else INTEGERS
    for kind, least, end in kinds:
        if all(least <= v < end for v in values):
            return kind
    bits, sign = max(v.bit_length() for v in values), "a sign" if min(values) < 0 else "no sign"
    raise GGUFError(f"{what}: expected integers that fit i64 or u64, found {bits:,} bits and {sign}.")


def text(value: Any, what: str, longest: int | None = None) -> bytes:  # -> length and UTF-8
    """Encode a string. longest: the most bytes for a name, which must not be empty."""
    try:
        data = value.encode()
    except AttributeError:
        raise GGUFError(f"{what}: expected a name that is a str, found {type(value).__name__}.") from None
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise GGUFError(f"{what}: expected Unicode, found lone surrogate U+{code:04X} at character {error.start:,}.") from None
    if longest is not None and not 1 <= len(data) <= longest:
        raise GGUFError(f"{what}: expected a name of 1 to {longest:,} bytes, found {len(data):,}.")
    return U64.pack(len(data)) + data
