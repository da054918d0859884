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

Dimensions are written fastest first, ggml's order; `shape` here is NumPy's, (rows, columns). Reading is in gguf_read.py; a large
model may be split into several such files (gguf_split.py), which open as one.

Source: the specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md. Version 2 differs from 3 only in what it does not
say about byte order; version 1, of 2023, had 32-bit counts and is refused.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minillm.errors import GGUFError
from minillm.formats import blocks, gguf_split
from minillm.formats.cursor import Cursor, quoted
from minillm.formats.float_blocks import SCALED, scale_name
from minillm.formats.gguf_read import HEADER_BYTES, MAX_DIMS, Part, TensorInfo, map_file, read_part

__all__ = ["MAX_DIMS", "GGUFFile", "TensorInfo", "Verbatim", "map_file", "open_gguf"]


class Verbatim(NamedTuple):
    """A metadata value as it stands in a file: the number of its type, and its bytes."""

    kind: int
    data: bytes


@dataclass
class GGUFFile:
    """An open file, or all files of a split model. Metadata are Python values: numbers, str, list of str, NumPy array of numbers.

    path: as it was named, of any part. parts: each file and its sections. mapped: the memory of each; empty once it is closed.
    """

    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    parts: list[Part]
    mapped: list[mmap.mmap]

    @property
    def nbytes(self) -> int:
        """Bytes of the file, or of all parts."""
        return sum(part.nbytes for part in self.parts)

    @property
    def alignment(self) -> int:
        """Alignment of the data, of the first part's."""
        return self.parts[0].alignment

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
        if not self.mapped:
            raise ValueError(f"{self.path} is closed")
        part, cursor, found = self.parts[0], Cursor(self.path, self.mapped[0]), {}
        cursor.position = HEADER_BYTES
        for key, end in zip(part.metadata, part.key_ends, strict=True):
            cursor.string(key)
            kind = cursor.kind(key)
            if key in self.metadata:  # what the part of a split model says of itself is not the model's
                found[key] = Verbatim(kind, self.mapped[0][cursor.position : end])
            cursor.position = end
        return found

    def raw(self, name: str) -> np.ndarray:  # -> (nbytes,) uint8
        """Return the bytes of a tensor: a read-only view of the mapped file, no copy. It stays good after close()."""
        if not self.mapped:
            raise ValueError(f"{self.path} is closed")
        info = self.tensor(name)
        return np.frombuffer(self.mapped[info.part], np.uint8, info.nbytes, info.offset)

    def dequantize(self, name: str, out: np.ndarray | None = None) -> np.ndarray:  # -> shape of the tensor, float32
        """Dequantize the weights of a tensor; `out` as in blocks.dequantize."""
        info = self.tensor(name)
        try:
            weights = blocks.dequantize(self.raw(name), info.type, info.shape, out)
        except GGUFError as error:
            raise GGUFError(f"{self.path}: tensor {quoted(name)}: {error}") from None
        if info.type.name in SCALED and (apart := scale_name(name)) in self.tensors:
            scale = self.dequantize(apart)
            if scale.size not in (1, info.shape[0]):
                expected = f"expected 1 scale or {info.shape[0]:,}, found {scale.size:,}"
                raise GGUFError(f"{self.path}: tensor {quoted(apart)}: {expected}.")
            weights *= scale.reshape(-1, *[1] * (len(info.shape) - 1))
        return weights

    def tensor(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise GGUFError(f"{self.path}: no tensor {quoted(name)} among its {len(self.tensors):,}.")
        return self.tensors[name]

    def release_pages(self) -> None:
        """Give the pages that were read back to the system (MADV_DONTNEED); a later read loads them from the file again."""
        for mapped in self.mapped if hasattr(mmap, "MADV_DONTNEED") else ():
            mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Close the file. The system unmaps it when the last view of a tensor is gone too."""
        self.mapped = []

    def __enter__(self) -> "GGUFFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_gguf(path: str | Path) -> GGUFFile:
    """Map a GGUF file and read its metadata and table of tensors; all of it is checked here, once.

    Of a split model any part may be named: all are opened. Raises GGUFError, in one line, for a file that cannot be read or is
    not what it says, and for parts that are missing or do not belong together.
    """
    path = Path(path)
    part, mapped = read_part(path)
    if gguf_split.split_count(part) == 1:
        return GGUFFile(path, part.version, part.metadata, part.tensors, [part], [mapped])
    read = [(part, mapped) if other == path else read_part(other) for other in gguf_split.other_parts(part)]
    parts = [part for part, _ in read]
    return GGUFFile(path, parts[0].version, *gguf_split.join(parts), parts, [mapped for _, mapped in read])
