"""A model in several files: NAME-00001-of-00003.gguf and so on, each a GGUF file of its own with some of the tensors.

Hubs limit the size of a file, so large models are split at tensors. The first part has all the metadata; every part says which it
is, of how many, and how many tensors there are in all:

    split.no: u16, from 0        split.count: u16        split.tensors.count: i32

The other parts are found by their names, so a part that was renamed is alone. A part may be missing, belong to another model or
to another download: all of this is checked, and named, before a tensor is used. Each file is mapped as it is; nothing is merged.

Source: llama.cpp, tools/gguf-split/gguf-split.cpp and src/llama-model-loader.cpp.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minillm.errors import GGUFError
from minillm.formats.cursor import quoted
from minillm.formats.expect import Fields
from minillm.formats.gguf_read import Part, TensorInfo

MOST_PARTS = 2**16 - 1
OWN_KEYS = ("split.no", "general.alignment")  # what each part says for itself
NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def part_name(stem: str, number: int, count: int) -> str:  # number: from 1
    return f"{stem}-{number:05d}-of-{count:05d}.gguf"


def named_parts(path: Path) -> list[Path]:
    """List the files of the model that a file belongs to, by its name alone; [path] where that is not a name of a part."""
    match = NAME.fullmatch(path.name)
    number, count = (int(match[2]), int(match[3])) if match else (0, 0)
    if match is None or not 1 <= number <= count <= MOST_PARTS:
        return [path]
    return [path.with_name(part_name(match[1], i + 1, count)) for i in range(count)]


def split_count(part: Part) -> int:
    """Read of how many parts this is one; 1 for a file that is whole."""
    return max(1, fields(part).whole("split.count", 1, high=MOST_PARTS))


def fields(part: Part) -> Fields:
    return Fields(part.metadata, f"{part.path}: metadata ", GGUFError)


def other_parts(part: Part) -> list[Path]:
    """Find the files of the model that a part belongs to, itself among them. GGUFError for one that is renamed, or not there."""
    count = split_count(part)
    number = fields(part).whole("split.no", high=count - 1) + 1
    paths = named_parts(part.path)
    if len(paths) != count or paths[number - 1] != part.path:
        wanted = part_name("…", number, count)
        what = f"part {number:,} of {count:,}: expected a name like {wanted}, by which the others are found"
        raise GGUFError(f"{part.path}: {what}, found {quoted(part.path.name)}.")
    missing = [path for path in paths if not path.exists()]
    if missing:
        more = f" and {len(missing) - 1:,} more" if missing[1:] else ""
        raise GGUFError(f"{missing[0]}: expected the {count:,} parts of a model in one folder, this one{more} is not there.")
    return paths


def join(parts: Sequence[Part]) -> tuple[dict[str, Any], dict[str, TensorInfo]]:  # -> metadata, {name: tensor}
    """Join what the parts say, in their order. GGUFError where they do not belong together.

    The metadata are the first part's, less the split.* keys: what they describe now is whole.
    """
    first, tensors = parts[0], dict[str, TensorInfo]()
    for i, part in enumerate(parts):
        said = fields(part)
        if (number := said.whole("split.no", high=MOST_PARTS)) != i:
            raise GGUFError(f"{part.path}: metadata split.no: expected {i:,}, as its name says, found {number:,}.")
        for key, value in part.metadata.items():
            if key not in OWN_KEYS and key in first.metadata and not same(value, first.metadata[key]):
                what = f"expected what {first.path.name} says, found another value: parts of two models?"
                raise GGUFError(f"{part.path}: metadata {quoted(key)}: {what}")
        for name, info in part.tensors.items():
            if name in tensors:
                other = parts[tensors[name].part].path.name
                raise GGUFError(f"{part.path}: tensor {quoted(name)}: expected each tensor once, it is in {other} too.")
            tensors[name] = replace(info, part=i)
    if (count := fields(first).whole("split.tensors.count")) != len(tensors):
        found = f"expected {count:,} tensors in {len(parts):,} parts, found {len(tensors):,}"
        raise GGUFError(f"{first.path}: metadata split.tensors.count: {found}.")
    return {key: value for key, value in first.metadata.items() if not key.startswith("split.")}, tensors


def same(a: Any, b: Any) -> bool:
    """Whether two values of metadata are equal; NaN is, to itself."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))
