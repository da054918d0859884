"""Safetensors, read and written: a length, a table of contents in JSON, then the bytes of the tensors one after another.

    | 8 bytes: n, little endian | n bytes of JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} | data |

The whole format, which is why it replaced pickled checkpoints: there is nothing in it that could run. Offsets count from
the start of the data. The file is mapped, not read, and each entry is checked against the file's size before it is used.
Every byte of the data belongs to one tensor, as the format demands: what no entry names could hide anything.

https://github.com/huggingface/safetensors (the format's description).
"""

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from minillm.errors import ModelError
from minillm.files import replacing
from minillm.formats.expect import is_unicode, is_whole, shown
from minillm.formats.gguf_write import Streamed
from minillm.formats.json_file import parse_object

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}  # bytes a value; the types that weights of a language model come in
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
MOST_DIMS = 8


Span = tuple[str, tuple[int, ...], int, int]  # dtype, shape, begin, end


class SafeTensor(NamedTuple):
    """One tensor: its bytes (a view of the mapped file), the name of its type, its shape."""

    raw: np.ndarray
    dtype: str
    shape: tuple[int, ...]

    def release_pages(self) -> None:
        """Give the pages of the file that were read back to the system; a later read loads them again."""
        mapped = getattr(self.raw, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def open_safetensors(path: str | Path) -> dict[str, SafeTensor]:
    """Map a file and list its tensors. ModelError says what was expected and found where the file is damaged."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(8)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > min(size - 8, LONGEST_HEADER):
                raise ModelError(f"{path}: header claims {length:,} bytes, the file has {size:,} (truncated download?).")
            entries = parse_object(file.read(length), f"{path}: the header", ModelError)
        data = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.empty(0, np.uint8)
    except OSError as refusal:
        raise ModelError(f"{path}: cannot be read: {refusal.strerror or refusal}.") from None
    entries.pop("__metadata__", None)
    spans = {name: span(path, len(data), name, entry) for name, entry in entries.items()}
    check_whole(path, len(data), spans)
    return {name: SafeTensor(data[begin:end], dtype, shape) for name, (dtype, shape, begin, end) in spans.items()}


def span(path: str | Path, nbytes: int, name: str, entry: Any) -> Span:
    """Check an entry of the header: its bytes are there and as many as its shape needs."""
    wanted = f"{path}: the entry of tensor {shown(name)} must have"
    if not isinstance(entry, dict) or not is_unicode(name):
        raise ModelError(f"{wanted} dtype, shape and two data_offsets, found {shown(entry)}.")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not is_list(shape, MOST_DIMS) or not is_list(offsets, 2) or len(offsets) != 2:
        found = f"{shown(shape)} and {shown(offsets)}"
        raise ModelError(f"{wanted} a shape of at most {MOST_DIMS} and two data_offsets, found {found}.")
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise ModelError(f"{path}: tensor {shown(name)} has type {shown(dtype)}; supported are {', '.join(WIDTHS)}.")
    begin, end = offsets
    needed = math.prod(shape) * WIDTHS[dtype]
    if not begin <= end <= nbytes or end - begin != needed:
        raise ModelError(
            f"{path}: tensor {shown(name)} of shape {tuple(shape)} needs {needed:,} bytes, its offsets {begin:,} to {end:,} give "
            f"{end - begin:,} of {nbytes:,} in the file (truncated download?)."
        )
    return dtype, tuple(shape), begin, end


def is_list(values: Any, most: int) -> TypeGuard[list[int]]:
    """Whether it is a list of whole numbers that fit 64 bits: a product of eight of them can still be printed."""
    return isinstance(values, list) and len(values) <= most and all(is_whole(n) and 0 <= n < 2**64 for n in values)


def check_whole(path: str | Path, nbytes: int, spans: Mapping[str, Span]) -> None:
    """Check that one tensor begins where the last one ends, and the last ends with the file."""
    at, last = 0, "the header"
    for name, (_, _, begin, end) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if begin != at:
            how = f"{at - begin:,} of the bytes of {last}" if begin < at else f"{begin - at:,} bytes that belong to none"
            raise ModelError(f"{path}: tensor {shown(name)} must begin at {at:,}, behind {last}, found {begin:,}: {how}.")
        at, last = end, shown(name)
    if at != nbytes:
        raise ModelError(f"{path}: the tensors must end with the data at {nbytes:,} bytes, the last, {last}, ends at {at:,}.")


KINDS = {"<f4": "F32", "<f2": "F16", "<u2": "BF16"}  # of an array: NumPy has no bfloat16, its bits are whole numbers


def encoded(  # {name: float32 or float16 array, or uint16: bits of bfloat16}, {str: str} -> [bytes]
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> list[bytes]:
    """Encode a file, in pieces to be written one after another."""
    littles = {name: array.dtype.newbyteorder("<") for name, array in tensors.items()}
    raws = [np.ascontiguousarray(array, littles[name]).tobytes() for name, array in tensors.items()]
    return [header({name: (KINDS[littles[name].str], array.shape) for name, array in tensors.items()}, metadata), *raws]


def header(entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode the table of contents, {name: (dtype, shape)}, behind its length. Padded, so that the data begins on 8 bytes."""
    table: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (dtype, shape) in entries.items():
        end = offset + math.prod(shape) * WIDTHS[dtype]
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_safetensors(path: str | Path, tensors: Mapping[str, Streamed], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file of tensors whose bytes are made as they are written; one that was there is replaced.

    Errors: what their chunks() raise, ModelError where the file cannot be written. Then there is none.
    """
    entries = {name: (tensor.type.name, tensor.shape) for name, tensor in tensors.items()}
    with replacing(path, ModelError) as file:
        file.write(header(entries, metadata))
        for tensor in tensors.values():
            for chunk in tensor.chunks():
                file.write(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
