"""Safetensors, read and written: a length, a table of contents in JSON, then the bytes of the tensors one after another.

    | 8 bytes: n, little endian | n bytes of JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} | data |

The whole format, which is why it replaced pickled checkpoints: there is nothing in it that could run. Offsets count from
the start of the data. The file is mapped, not read, and each entry is checked against the file's size before it is used.

https://github.com/huggingface/safetensors (the format's description).
"""

import json
import math
import os
from dataclasses import dataclass

import numpy as np

from minillm.errors import ModelError

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}  # bytes a value; the types that weights of a language model come in
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """One tensor: its bytes (a view of the mapped file), the name of its type, its shape."""

    raw: np.ndarray
    dtype: str
    shape: tuple[int, ...]


def open_safetensors(path):  # path -> {name: SafeTensor}
    """Map a file and list its tensors. ModelError says what was expected and found where the file is damaged."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(size - 8, LONGEST_HEADER):
            raise ModelError(f"{path}: header claims {length:,} bytes, the file has {size:,} (truncated download?).")
        try:
            entries = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path}: the header is no JSON: {error}.") from None
    if not isinstance(entries, dict):
        raise ModelError(f"{path}: the header must be an object, found {type(entries).__name__}.")
    data = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.empty(0, np.uint8)
    return {name: view(path, data, name, entry) for name, entry in entries.items() if name != "__metadata__"}


def view(path, data, name, entry):  # -> SafeTensor
    """The bytes that one entry of the header claims, if they are there and as many as its shape needs."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ModelError(f"{path}: the entry of tensor {name!r} must have dtype, shape and two data_offsets.")
    if dtype not in WIDTHS:
        raise ModelError(f"{path}: tensor {name!r} has type {dtype!r}; supported are {', '.join(WIDTHS)}.")
    needed = math.prod(shape) * WIDTHS[dtype]
    if not begin <= end <= len(data) or end - begin != needed:
        raise ModelError(
            f"{path}: tensor {name!r} of shape {shape} needs {needed:,} bytes, its offsets {begin:,} to {end:,} give "
            f"{end - begin:,} of {len(data):,} in the file (truncated download?)."
        )
    return SafeTensor(data[begin:end], dtype, shape)


def encoded(tensors, metadata=None):  # {name: float32 or float16 array}, {str: str} -> [bytes]
    """A file, in pieces to be written one after another. The header is padded with spaces, so that the data begins on 8 bytes."""
    entries, offset, parts = {"__metadata__": metadata} if metadata else {}, 0, []
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        dtype = {2: "F16", 4: "F32"}[array.dtype.itemsize]
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
        parts.append(raw)
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    return [len(header).to_bytes(8, "little"), header, *parts]
