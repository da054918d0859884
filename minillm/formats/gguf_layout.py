"""What lies where in a GGUF file, byte by byte, and for what: the sections, and the part of a model that each tensor belongs to.

    | header: 24 | metadata, key by key | table of tensors | padding | tensor | padding | tensor | ...

The data of a file usually follow the model: embedding, then layer after layer. So a system that loads pages as they are used
reads the file from front to back.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from minillm.formats.gguf import GGUFFile
from minillm.formats.gguf_read import HEADER_BYTES, Part, TensorInfo

ROLES = (  # (role, what a tensor's name holds then), the first that fits
    ("norms", r"norm"),
    ("attention", r"(^|\.)attn_"),
    ("feed-forward", r"(^|\.)ffn_"),
    ("embedding", r"^token_embd\."),
    ("head", r"^output\."),
)
OTHER = "other"


@dataclass(frozen=True)
class Section:
    """A stretch of a file. kind: header, key, table, padding or tensor; name: of the key, or of the tensor."""

    part: int
    begin: int
    end: int
    kind: str
    name: str = ""
    tensor: TensorInfo | None = None

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


def role_of(name: str) -> str:
    """Tell which part of a model a tensor belongs to, by GGUF's names."""
    return next((role for role, pattern in ROLES if re.search(pattern, name)), OTHER)


def sections(gguf: GGUFFile) -> list[Section]:
    """List the sections of a file, or of one part after another, without a gap: each begins where the last one ends."""
    return [section for number, part in enumerate(gguf.parts) for section in of_part(number, part)]


def of_part(number: int, part: Part) -> Iterator[Section]:
    yield Section(number, 0, HEADER_BYTES, "header")
    at = HEADER_BYTES
    for key, end in zip(part.metadata, part.key_ends, strict=True):
        yield Section(number, at, end, "key", key)
        at = end
    if part.tensors:
        yield Section(number, at, part.table_end, "table")
        at = part.table_end
    for info in sorted(part.tensors.values(), key=lambda info: info.offset):
        if info.offset > at:
            yield Section(number, at, info.offset, "padding")
        at = info.offset + info.nbytes
        yield Section(number, info.offset, at, "tensor", info.name, info)
    if part.nbytes > at:
        yield Section(number, at, part.nbytes, "padding")


def bytes_by_role(gguf: GGUFFile) -> dict[str, int]:  # -> {role: bytes}, the largest first
    """Add up the tensors of each role."""
    found: dict[str, int] = {}
    for info in gguf.tensors.values():
        role = role_of(info.name)
        found[role] = found.get(role, 0) + info.nbytes
    return dict(sorted(found.items(), key=lambda item: -item[1]))
