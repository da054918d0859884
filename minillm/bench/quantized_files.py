"""Files for the table of methods: one model, its layers' matrices quantized in one way after another, all else left as it is.

A difference between two rows is then one of the method: embedding, head and vectors are the source's own in all of them. Methods
on the affine grid are those of the command `quantize` (calibration/recipe.py), others are types of blocks:

    rtn hqq gptq awq                 8 4 3 2    codes and grid differ; so many weights share a scale (group)
    sym                              8 4 3 2    rtn on a grid around 0, which needs no minimum; the file has one all the same
    nf4 iq4_nl mxfp4 nvfp4 fp8       4, 8       a table of levels, or small floats
    q q_1 k                          8 4 3 2    llama.cpp's types, with searched scales

Where the source is quantized itself, some rows have grids that contain its own: they lose nothing, and say nothing of a method.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minillm.calibration.collect import chunks_of
from minillm.calibration.quantize_file import quantize_file
from minillm.calibration.recipe import METHODS, Recipe, is_layers_matrix, layer_of
from minillm.calibration.texts import story_texts
from minillm.errors import MiniLLMError, did_you_mean
from minillm.formats.affine_blocks import affine_name
from minillm.formats.blocks import BLOCK_TYPES
from minillm.formats.float_blocks import SCALED, scale_name
from minillm.formats.gguf import GGUFFile
from minillm.formats.gguf_write import write_gguf
from minillm.formats.recode import Source, recode
from minillm.model.tokenizer import Tokenizer
from minillm.quantization.affine import Grid

TYPED = {  # methods that are a type of blocks: bits -> the type's name
    "q": {8: "Q8_0", 4: "Q4_0"}, "q_1": {4: "Q4_1"}, "k": {4: "Q4_K", 3: "Q3_K", 2: "Q2_K"}, "iq4_nl": {4: "IQ4_NL"},
    "nf4": {4: "NF4"}, "mxfp4": {4: "MXFP4"}, "nvfp4": {4: "NVFP4"}, "fp8": {8: "FP8_E4M3"},
}  # fmt: skip
SYMMETRIC = "sym"
ALL = (*METHODS, SYMMETRIC, *TYPED)
CONTAINS = {"Q4_1": ("Q4_1", "Q5_1", "Q8_0", "INT8_G32"), "Q4_0": ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "INT8_G32")}
CHUNKS, CONTEXT = 16, 512  # of calibration: 8,192 tokens


@dataclass(frozen=True, slots=True)
class Way:
    """A row of the table: a method at some bits, the type of block that its matrices become, and how to make the file."""

    method: str
    bits: int
    type: str
    make: Callable[[GGUFFile, Path], object]


def ways(methods: Sequence[str], bits: Sequence[int], group: int) -> list[Way]:
    """List the rows for these methods and bits; a method that cannot do some has no row. MiniLLMError: no such method."""
    if unknown := [name for name in methods if name not in ALL]:
        raise MiniLLMError(f"no method of the table is called {unknown[0][:40]!r}; {did_you_mean(unknown[0], ALL)}")
    found = []
    for b in bits:
        for name in methods:
            if name in (*METHODS, SYMMETRIC):
                recipe = Recipe("rtn" if name == SYMMETRIC else name, Grid(b, group, name == SYMMETRIC))
                found.append(Way(name, b, affine_name(b, group), partial(by_method, recipe)))
            elif kind := TYPED[name].get(b):
                found.append(Way(name, b, kind, partial(by_type, kind)))
    return found


def fitting(all_ways: Sequence[Way], source: GGUFFile) -> Iterator[Way]:
    """Leave out ways whose blocks do not fill the rows of this model's matrices."""
    widths = {info.shape[-1] for name, info in source.tensors.items() if is_layers_matrix(name)}
    return (way for way in all_ways if all(width % BLOCK_TYPES[way.type].weights == 0 for width in widths))


def holds_the_source(way: Way, source: GGUFFile) -> bool:
    """Whether the row's grid contains the one that the source was rounded to before."""
    types = {info.type.name for name, info in source.tensors.items() if is_layers_matrix(name) and info.type.weights > 1}
    return any(way.type == type or way.type in CONTAINS.get(type, ()) for type in types)


def by_method(recipe: Recipe, source: GGUFFile, path: Path) -> None:
    """Write a file by a method on the affine grid, calibrated on our stories where it needs a text."""
    head = source.tensors["token_embd.weight"].type.name
    recipe = Recipe(recipe.method, recipe.grid, head, recipe.act_order, "stories of tiny's training" if recipe.calibrated else "")
    quantize_file(source, path, recipe, list(calibration(source)) if recipe.calibrated else [])


def calibration(source: GGUFFile) -> np.ndarray:  # -> (chunks, context) int64
    """Cut training stories, none of which is measured on, into chunks of this model's tokens."""
    return chunks_of(Tokenizer.from_gguf(source.metadata), story_texts().calibration, CONTEXT, CHUNKS)


def by_type(kind: str, source: GGUFFile, path: Path) -> None:
    """Write a file whose layers' matrices are of a type of blocks, with their scales where these lie apart."""
    tensors, type_ = dict[str, Any](), BLOCK_TYPES[kind]
    for name in sorted(source.tensors, key=layer_of):
        info = source.tensors[name]
        if is_layers_matrix(name) and kind in SCALED:
            raw, scale = SCALED[kind](source.dequantize(name))
            tensors[name] = raw.reshape(-1), type_, info.shape
            tensors[scale_name(name)] = scale
        else:
            stored = Source(source.raw(name), info.type, info.shape, name)
            tensors[name] = recode(stored, type_ if is_layers_matrix(name) else info.type)
    write_gguf(path, {key: value for key, value in source.verbatim().items() if key != "general.file_type"}, tensors)
