"""Quantize a model layer by layer: each matrix sees the inputs that it will have in the quantized model.

The text runs through the model once, a quarter of a layer at a time. Before a matrix is used its inputs are looked at, it is
quantized, and what it then hands on is computed with the quantized weights, so later matrices can make good what earlier ones
lost. q, k, v share an input, and so do gate and up:

    chunks ─ embed ─▶ x ─ norm ─▶ [q k v] ─ attention ─▶ [o] ─ + ─▶ norm ─▶ [gate up] ─ swiglu ─▶ [down] ─ + ─▶ x ─▶ next layer
                                  1 see                  2 see              3 see                 4 see
                                    quantize               quantize           quantize              quantize

    for layer in quantize_layers(transformer, chunks, quantize):      quantize(name, weights, inputs) -> codes and scales
        layer.matrices["blk.3.ffn_down.weight"]

In memory are the residual stream of all chunks, one layer's matrices as floats, and the inputs of one chunk: those of attn_output
and ffn_down are computed twice, rather than kept. A quantizer that also changes what comes before a matrix (AWQ's scales, folded
into a norm) does it in `prepare`, while the layer is float. Frantar et al. 2022, arXiv:2210.17323, section 4.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy import ndarray as Array

from minillm.calibration.inputs import Inputs, output_error
from minillm.errors import MiniLLMError, ModelError
from minillm.layers import add_feed_forward, add_linear, linear, rms_norm, swiglu
from minillm.memory import refuse_beyond_memory
from minillm.model.adapters import FIELDS
from minillm.model.transformer import Segment, Transformer

SITES = (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))  # matrices of one input
SAMPLE = 512  # inputs kept of a site, for those who try scales on them


class Quantized(Protocol):
    """What a quantizer returns: whatever can be made floats again."""

    def dense(self) -> Array:  # -> (rows, columns) float32
        """Dequantize."""


Quantize = Callable[[str, Array, Inputs], Quantized]  # GGUF's name of a matrix, (rows, columns) float32, what flows into it


@dataclass
class OpenLayer:
    """A layer that is being quantized. weights: a LayerWeights of its own, whose fields `prepare` may replace by new arrays.

    x: the residual stream, (tokens, d_model) for each chunk: before the layer, and after its first half once `halfway`.
    """

    index: int
    weights: Any  # model.weights.LayerWeights, floats
    x: list[Array]
    model: Transformer
    sample: int = SAMPLE
    halfway: bool = False
    matrices: dict[str, Quantized] = field(default_factory=dict)  # {GGUF's name: what the quantizer made of it}
    errors: dict[str, float] = field(default_factory=dict)  # {GGUF's name: ‖(W - Ŵ) X‖² / ‖W X‖²}

    def name(self, stem: str) -> str:  # "ffn_down" -> "blk.3.ffn_down.weight"
        return f"blk.{self.index}.{stem}.weight"

    def matrix(self, stem: str) -> Array:  # "ffn_down" -> (rows, columns) float32
        return getattr(self.weights, FIELDS[stem])

    def inputs(self, stem: str) -> Inputs:
        """Run all chunks up to a matrix, with the layer's weights as they are now; return the statistics of its inputs."""
        seen = Inputs(self.matrix(stem).shape[1], sum(map(len, self.x)), self.sample, self.name(stem))
        for x in self.x:
            seen.add(self.input_of(stem, x))
        return seen

    def input_of(self, stem: str, x: Array) -> Array:  # (tokens, d_model) -> (tokens, columns)
        """Compute what flows into a matrix from one chunk."""
        w, eps = self.weights, self.model.config.norm_eps
        if stem in SITES[0]:
            return rms_norm(x, w.attn_norm, eps)
        if stem in SITES[1]:
            return self.attended(x)
        h = rms_norm(x if self.halfway else add_linear(x, self.attended(x), w.o), w.ffn_norm, eps)
        return h if stem in SITES[2] else swiglu(linear(h, w.gate), linear(h, w.up))

    def attended(self, x: Array) -> Array:  # (tokens, d_model) -> (tokens, heads · d_head)
        """Compute what the attention of a chunk hands to attn_output."""
        model = self.model
        angles = model.ops.rope_angles(np.arange(len(x)), model.frequencies, model.rope_magnitude)
        q, k, v = model.ops.attention_inputs(x, self.weights, model.config, *angles)
        return model.ops.attention(q, k, v).reshape(len(x), -1)

    def quantize(self, quantize: Quantize, progress: Callable[[int], object]) -> None:
        """Quantize the four groups of matrices in the order of the forward pass, and move the chunks through the layer."""
        for site in SITES:
            inputs = self.inputs(site[0])
            for stem in site:
                weights, name = self.matrix(stem), self.name(stem)
                self.matrices[name] = made = quantize(name, weights, inputs)
                dense = made.dense()
                self.errors[name] = output_error(weights, dense, inputs.hessian)
                setattr(self.weights, FIELDS[stem], dense)
                progress(weights.size)
            if site == SITES[1]:
                for i, x in enumerate(self.x):  # one chunk after another: a new list would be a second stream beside the old
                    self.x[i] = add_linear(x, self.attended(x), self.weights.o)
                self.halfway = True
        for i, x in enumerate(self.x):
            self.x[i] = add_feed_forward(x, self.weights, self.model.config)


def quantize_layers(
    transformer: Transformer, chunks: Iterable[Sequence[int] | Array], quantize: Quantize,
    prepare: Callable[[OpenLayer], object] = lambda layer: None, progress: Callable[[int], object] = lambda weights: None,
    sample: int = SAMPLE, least: int | None = None,
) -> Iterator[OpenLayer]:  # fmt: skip
    """Quantize a model on a text; yield its layers one after another, each with `matrices`, `errors` and final `weights`.

    transformer: on the numpy backend. It keeps its weights; calibration/streamed.py makes one that reads a layer when it comes.
    chunks: token ids, each chunk a text of its own. quantize: called for each matrix. prepare: called before, with the layer in
    float: it may replace its matrices and vectors by others that compute the same. progress: called with the weights done.
    sample: inputs kept for each site. least: tokens that the text must have; by default as many as the widest matrix has columns,
    because from fewer a Hessian is singular.

    MiniLLMError for another backend, for a text that is empty or too short, for chunks that the model cannot run, and for inputs
    that are not finite.
    """
    if transformer.ops.name != "numpy":
        raise ModelError(f"layers are quantized on the numpy backend, found a model on {transformer.ops.name}.")
    c = transformer.config
    widest = max(c.d_model, c.n_heads * c.d_head, c.d_ff)
    least = max(1, widest if least is None else least)
    ids = [np.asarray(chunk, np.int64) for chunk in chunks]
    if (found := sum(map(len, ids))) < least:
        raise MiniLLMError(f"calibration needs at least {least:,} tokens, as many as the widest matrix has columns; "
                           f"found {found:,}: give a longer text, or more chunks of it.")  # fmt: skip
    squares = 6 * 8 * widest**2  # float64: a Hessian, its factor, and what makes it
    refuse_beyond_memory(4 * found * c.d_model + squares, f"calibration on {found:,} tokens", "Take fewer chunks.")
    for chunk in ids:
        transformer.check(Segment(chunk, 0, transformer.new_cache()))
    x = [transformer.ops.embed(chunk, transformer.weights.embedding) for chunk in ids]
    for index in range(c.n_layers):  # enumerate() would hold on to the layer before
        layer = OpenLayer(index, replace(transformer.weights.layers[index]), x, transformer, sample)
        prepare(layer)
        layer.quantize(quantize, progress)
        yield layer
        del layer  # before the next one is read
