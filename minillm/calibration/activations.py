"""Weight-and-activation quantization of a whole model, simulated: each product of a layer is computed as a method computes it.

    for w in a layer:  product = method(w, what flows into w on a text)        x wᵀ  →  product(x)

Weights are rounded once, activations in every product, as they come; sums are exact. Embedding, head, norms and attention stay
float, as in the papers. Two methods change the model first, so that it computes the same and rounds better: SmoothQuant, and
QuaRot. What is fast about 8 bits is not shown here, the arithmetic is float32 throughout; the kernels are the Numba backend's.

    method          weights         activations                          before
    static          per tensor      per tensor, scale from the text
    dynamic         per tensor      per tensor
    token           per channel     per token
    llm_int8        per channel     per token; columns above 6: float
    smooth_static   per tensor      as static                            SmoothQuant O3
    smooth_dynamic  per tensor      as dynamic                           SmoothQuant O2
    smooth_token    per tensor      per token                            SmoothQuant O1
    rotated         per tensor      as dynamic, x R beside w R           R is multiplied at run time, in each product
    quarot          per tensor      as dynamic                           R folded into the weights of the residual stream
    e4m3, e5m2      per tensor      as dynamic, FP8

A dynamic scale "per tensor" is one for all tokens that are computed at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy import ndarray as Array

from minillm.calibration.collect import matrix_names, with_linear
from minillm.calibration.folding import FOLDS, by_values, folded
from minillm.calibration.statistics import ActivationStatistics, Channels
from minillm.errors import MiniLLMError
from minillm.model.transformer import Transformer
from minillm.quantization.fp8 import E5M2_LARGEST, LARGEST, round_e4m3, round_e5m2, scale_of
from minillm.quantization.int8 import int8_linear, int8_matmul_blas, quantize_int8, static_scales
from minillm.quantization.llm_int8 import THRESHOLD, llm_int8
from minillm.quantization.rotations import rotation
from minillm.quantization.smoothquant import smoothing_scales

Product = Callable[[Array], Array]  # (tokens, columns) -> (tokens, rows)
ALPHA = 0.5  # SmoothQuant's migration strength


@dataclass(frozen=True, slots=True)
class Method:
    """How products are computed. product(w, statistics of its inputs, or None) rounds w, and returns the function of x.

    before: "smooth" or "quarot", the change of the model that the method begins with. calibrated: whether product needs the
    statistics. naive: the method that it is compared with.
    """

    product: Callable[[Array, Channels | None], Product]
    before: str = ""
    calibrated: bool = False
    naive: str = "dynamic"


def per_tensor_static(w: Array, seen: Channels | None) -> Product:
    """Round to int8 with one scale for w, and one for all inputs to come: that of the largest on the calibration text."""
    weights, scales = quantize_int8(w, "tensor"), static_scales([seen.max_abs[None]] if seen and seen.tokens else [])
    return lambda x: int8_linear(quantize_int8(x, scales=scales), weights, int8_matmul_blas)


def dynamic(w: Array, seen: Channels | None, per: str, w_per: str) -> Product:
    """Round to int8 with scales from the numbers themselves."""
    weights = quantize_int8(w, w_per)
    return lambda x: int8_linear(quantize_int8(x, per), weights, int8_matmul_blas)


def decomposed(w: Array, seen: Channels | None, threshold: float = THRESHOLD) -> Product:
    """Take the outlier columns of the tokens at hand apart, and round the rest of w and x."""
    return lambda x: llm_int8(x, w, threshold, int8_matmul_blas)


def rotated(w: Array, seen: Channels | None, seed: int = 0) -> Product:
    """Round along other axes: x wᵀ = (x R)(w R)ᵀ, and no column of x R sticks out."""
    r = rotation(w.shape[1], seed).astype(np.float32)
    product = dynamic(w @ r, seen, "tensor", "tensor")
    return lambda x: product(x @ r)


def float8(w: Array, seen: Channels | None, rounded: Callable[[Array], Array], largest: float) -> Product:
    """Round to FP8 with scales that put the largest of a tensor at the top of the format; products and sums are float32."""

    def nearest(x: Array) -> Array:
        scale = scale_of(x, largest=largest)
        return rounded(x / scale) * scale

    weights = nearest(w)
    return lambda x: nearest(x) @ weights.T


per_tensor = partial(dynamic, per="tensor", w_per="tensor")
METHODS = {
    "static": Method(per_tensor_static, calibrated=True, naive=""),
    "dynamic": Method(per_tensor, naive=""),
    "token": Method(partial(dynamic, per="row", w_per="row")),
    "llm_int8": Method(decomposed),
    "smooth_static": Method(per_tensor_static, "smooth", calibrated=True, naive="static"),
    "smooth_dynamic": Method(per_tensor, "smooth"),
    "smooth_token": Method(partial(dynamic, per="row", w_per="tensor"), "smooth"),
    "rotated": Method(rotated),
    "quarot": Method(per_tensor, "quarot"),
    "e4m3": Method(partial(float8, rounded=round_e4m3, largest=LARGEST)),
    "e5m2": Method(partial(float8, rounded=round_e5m2, largest=E5M2_LARGEST)),
}


def simulated(transformer: Transformer, method: Method, seen: ActivationStatistics | None = None) -> Transformer:
    """Make a model whose layers' products are the method's. `before` is the caller's: give the model that it made.

    seen: of this very model on the calibration text. MiniLLMError for a method that needs it and has none, and for a model whose
    weights or activations are not finite: the latter when it runs.
    """
    products: dict[int, Product] = {}

    def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
        if id(weight) not in products:  # the head
            return transformer.ops.linear(x, weight, bias)
        y = products[id(weight)](x)
        return y if bias is None else y + bias

    model, names, weights = with_linear(transformer, linear), matrix_names(transformer), transformer.weights
    for matrix in (getattr(layer, field) for layer in weights.layers for fold in FOLDS for field in fold.matrices):
        name = names[id(matrix)]
        if method.calibrated and (seen is None or name not in seen):
            raise MiniLLMError(f"{name}: static scales need a calibration, expected statistics of its inputs, found none; "
                               "run the model on some text first, or take dynamic scales.")  # fmt: skip
        products[id(matrix)] = method.product(matrix, seen.get(name) if seen is not None else None)
    return model


def smoothed(transformer: Transformer, seen: ActivationStatistics, alpha: float = ALPHA) -> Transformer:
    """Fold SmoothQuant's scales into a model: it computes the same. seen: of this model on the calibration text.

    All four inputs of a layer are smoothed; the paper's code leaves out those of o and down. Heads that share their values take
    the largest of theirs. MiniLLMError as smoothing_scales raises it.
    """
    config, layers = transformer.config, []
    for index, weights in enumerate(transformer.weights.layers):
        for fold in reversed(FOLDS):  # v and up, whose rows are divided, before the folds that look at them
            x_max = seen[f"blk.{index}.{fold.stem}.weight"].max_abs
            matrices = [getattr(weights, name) for name in fold.matrices]
            if fold.before == "v":  # one scale for what one row of v makes
                heads = by_values(x_max, config)
                x_max = np.broadcast_to(heads.max(axis=1, keepdims=True), heads.shape).reshape(-1)
                columns = by_values(np.abs(matrices[0]).max(axis=0), config).max(axis=1, keepdims=True)
                matrices = [np.broadcast_to(columns, heads.shape).reshape(1, -1)]
            weights = folded(weights, fold, smoothing_scales(x_max, matrices, alpha), config)
        layers.append(weights)
    return Transformer(config, replace(transformer.weights, layers=layers), transformer.ops, transformer.kv)
