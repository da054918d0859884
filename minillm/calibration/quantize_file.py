"""Quantize a GGUF file by a method of recipe.py: the model is walked, and each layer is written when it is done.

The table of a file comes first, and can: types and shapes say how many bytes each tensor takes. Then the writer asks for one
tensor after another, in the order of the forward pass; the first of a layer moves the walk (layers.py) there.

    write_gguf ── bytes of "blk.3.attn_q.weight"? ──▶ LayersInTurn ── next layer ──▶ quantize_layers, or without_text
               ◀── blocks ───────────────────────────              ◀── matrices, and vectors that were changed

So a layer is all that waits in memory, and what fails half-way leaves no file.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy import ndarray as Array

from minillm.calibration.inputs import Inputs
from minillm.calibration.layers import OpenLayer, Quantize, Quantized, quantize_layers
from minillm.calibration.recipe import KEYS, Recipe, layer_of, types_with
from minillm.calibration.streamed import streamed_model
from minillm.errors import MiniLLMError, ModelError
from minillm.formats.affine_blocks import pack_affine
from minillm.formats.cursor import quoted
from minillm.formats.expect import from_file
from minillm.formats.gguf import GGUFFile
from minillm.formats.gguf_write import Streamed, write_gguf
from minillm.formats.recode import Source, recode
from minillm.formats.requantize import QUANTIZATION_VERSION, SPLIT_KEYS, refuse_itself
from minillm.model.adapters import FIELDS
from minillm.model.transformer import Transformer
from minillm.quantization.affine import AffineMatrix, round_to_nearest
from minillm.quantization.gptq import gptq

VECTORS = {  # GGUF's name of a vector: its name in LayerWeights
    "attn_norm.weight": "attn_norm", "ffn_norm.weight": "ffn_norm",
    "attn_q_norm.weight": "q_norm", "attn_k_norm.weight": "k_norm",
    "attn_q.bias": "q_bias", "attn_k.bias": "k_bias", "attn_v.bias": "v_bias",
}  # fmt: skip
Progress = Callable[[int], object]


def quantize_file(
    source: GGUFFile, path: str | Path, recipe: Recipe, chunks: Sequence[Array] = (), progress: Progress = lambda weights: None
) -> dict[str, float]:  # {matrix of a layer: share of its output's energy that was lost}; none where there was no text
    """Write `source`, quantized, to `path`; a file that was there is replaced.

    chunks: token ids of a text, for methods that need one. progress: called with the number of weights done since the last call.

    MiniLLMError, with the tensor's name, for weights that are not finite and groups that do not fill a row; as quantize_layers;
    and GGUFError as write_gguf. Nothing is written then.
    """
    refuse_itself(source.path, path)
    types = types_with(recipe, source)
    walk = LayersInTurn(source, layers_by(recipe, streamed_model(source), chunks, progress))
    tensors = {}
    for name, kind in types.items():
        info = source.tensors[name]
        stored = Source(source.raw(name), info.type, info.shape, f"{source.path}: tensor {quoted(name)}", source.release_pages)
        if layer_of(name) < 0:
            tensors[name] = recode(stored, kind, progress=progress)
        else:
            tensors[name] = Streamed(kind, info.shape, partial(walk.stored, name))
    metadata: dict[str, Any] = {
        key: value for key, value in source.verbatim().items()
        if key not in SPLIT_KEYS and key != "general.file_type" and not key.startswith(KEYS)  # no file_type has these grids
    } | {"general.quantization_version": np.uint32(QUANTIZATION_VERSION)} | recipe.metadata(sum(map(len, chunks)))  # fmt: skip
    write_gguf(path, metadata, tensors)
    return walk.errors


class LayersInTurn:
    """The layers of a walk, asked for tensor by tensor, in their order. errors: of all matrices so far."""

    def __init__(self, source: GGUFFile, walk: Iterator[OpenLayer]) -> None:
        self.source, self.walk, self.errors = source, walk, dict[str, float]()
        self.layer: OpenLayer | None = None

    def stored(self, name: str) -> Iterator[Array]:  # "blk.3.ffn_down.weight" -> its bytes
        """Give the bytes of a tensor, once the walk has come to its layer."""
        while self.layer is None or self.layer.index < layer_of(name):
            self.layer = None  # before the next one: two are not needed at once
            with from_file(self.source.path):
                self.layer = next(self.walk)
            self.errors |= self.layer.errors
        if name in self.layer.matrices:
            yield pack_affine(cast(AffineMatrix, self.layer.matrices[name]))
            return
        vector = getattr(self.layer.weights, VECTORS[name.split(".", 2)[2]])
        if not np.isfinite(vector).all():
            raise ModelError(f"{self.source.path}: tensor {quoted(name)}: expected finite numbers, found some that are not.")
        yield np.ascontiguousarray(vector, "<f4")


def layers_by(recipe: Recipe, model: Transformer, chunks: Sequence[Array], progress: Progress) -> Iterator[OpenLayer]:
    """Quantize layer after layer by the method of a recipe."""
    grid = recipe.grid
    if recipe.method == "gptq":
        by_columns = partial(gptq, grid=grid, act_order=recipe.act_order)
        return quantize_layers(model, chunks, saying(lambda name, w, inputs: by_columns(w, inputs.hessian)), progress=progress)
    if recipe.method == "awq":
        from minillm.calibration.folding import awq_layer, clip_and_round

        clipped = saying(partial(clip_and_round, grid=grid))
        return quantize_layers(model, chunks, clipped, lambda layer: awq_layer(layer, grid), progress)
    if recipe.method == "hqq":
        from minillm.quantization.hqq import hqq

        return without_text(model, saying(lambda name, w, inputs: hqq(w, grid)), progress)
    return without_text(model, saying(lambda name, w, inputs: round_to_nearest(w, grid)), progress)


def without_text(model: Transformer, quantize: Quantize, progress: Progress) -> Iterator[OpenLayer]:
    """Quantize layer after layer by a method that looks at the weights alone; its `inputs` are None."""
    for index in range(model.config.n_layers):
        layer = OpenLayer(index, model.weights.layers[index], [], model)
        for stem in FIELDS:
            layer.matrices[layer.name(stem)] = quantize(layer.name(stem), layer.matrix(stem), cast(Inputs, None))
            progress(layer.matrix(stem).size)
        yield layer
        del layer  # before the next one is read


def saying(quantize: Callable[[str, Array, Inputs], AffineMatrix]) -> Quantize:
    """Say of which matrix a quantizer complains."""

    def named(name: str, weights: Array, inputs: Inputs) -> Quantized:
        try:
            return quantize(name, weights, inputs)
        except MiniLLMError as error:
            raise ModelError(f"tensor {quoted(name)}: {error}") from None

    return named
