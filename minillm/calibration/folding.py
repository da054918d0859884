"""Folding: scales of a matrix's columns that cost nothing at run time, because what comes before is divided by them.

    x Wᵀ = (x / s) (W · s)ᵀ           and x / s comes for free where x is made by a gain or by a product:

    attn_norm ──▶ q, k, v             the norm's gain / s
    v ──▶ (attention) ──▶ o           rows of v, and its bias, / s: attention averages values, each component for itself
    ffn_norm ──▶ gate, up             the norm's gain / s
    up ──▶ (· silu(gate)) ──▶ down    rows of up / s: SwiGLU multiplies two vectors, and only one of them has a bend

With grouped-query attention one head of values feeds several heads of o's columns, which then must have the same scales. Nothing
of the residual stream is scaled, so a layer hands on what it did before. AWQ searches such scales for the weights' sake (Lin et
al. 2023, arXiv:2306.00978), SmoothQuant for that of the activations (Xiao et al. 2022, arXiv:2211.10438).
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray as Array

from minillm.calibration.inputs import Inputs
from minillm.calibration.layers import OpenLayer
from minillm.errors import MiniLLMError, ModelError
from minillm.model.config import ModelConfig
from minillm.model.transformer import Transformer
from minillm.quantization.affine import AffineMatrix, Grid, round_to_nearest
from minillm.quantization.awq import awq_scales, clip


class Fold(NamedTuple):
    """What is divided, a gain or the rows of a matrix, and the matrices that take what it makes: fields of LayerWeights."""

    before: str
    matrices: tuple[str, ...]
    stem: str  # GGUF's name of the first of them


FOLDS = (
    Fold("attn_norm", ("q", "k", "v"), "attn_q"),
    Fold("v", ("o",), "attn_output"),
    Fold("ffn_norm", ("gate", "up"), "ffn_gate"),
    Fold("up", ("down",), "ffn_down"),
)
UNCLIPPED = ("attn_q", "attn_k")


def awq_layer(layer: OpenLayer, grid: Grid) -> dict[str, Array]:  # -> {stem of a fold's first matrix: scales (columns,)}
    """Fold AWQ's scales into a layer that is still in float: it computes what it did, and rounds better. `prepare` of layers.py.

    One fold after another is searched on the inputs of the whole text, by way of their Hessian: a token with huge activations is
    rare, and a sample may miss it.
    """
    found, config = {}, layer.model.config
    for fold in FOLDS:
        inputs = layer.inputs(fold.stem)
        magnitudes = shared(inputs.mean_abs, config) if fold.before == "v" else inputs.mean_abs
        matrices = [getattr(layer.weights, name) for name in fold.matrices]
        try:
            scales = awq_scales(matrices, magnitudes, factor(inputs), grid)
        except MiniLLMError as error:
            raise ModelError(f"{layer.name(fold.stem)} and what shares its inputs: {error}") from None
        found[fold.stem] = scales
        layer.weights = folded(layer.weights, fold, scales, config)
    return found


def clip_and_round(name: str, weights: Array, inputs: Inputs, grid: Grid) -> AffineMatrix:  # GGUF's name, (rows, columns)
    """Quantize a matrix that has its scales. Queries and keys are not clipped, as the authors found: scores feel it too much."""
    if name.split(".")[-2] not in UNCLIPPED:
        weights = clip(weights, factor(inputs), grid)
    return round_to_nearest(weights, grid)


def factor(inputs: Inputs) -> Array:  # -> (columns, columns) float32: R with RᵀR = H
    """Make as many inputs as there are columns that stand for all: any change of weights costs on them what it costs on those."""
    hessian = inputs.hessian
    try:
        return np.linalg.cholesky(hessian).T.astype(np.float32)
    except np.linalg.LinAlgError:  # fewer tokens than columns, or a column that is always 0: no less true, and slower
        values, vectors = np.linalg.eigh(hessian)
        return (np.sqrt(np.maximum(values, 0)) * vectors).T.astype(np.float32)


def folded(weights: Any, fold: Fold, scales: Array, config: ModelConfig) -> Any:  # LayerWeights, Fold, (columns,) -> LayerWeights
    """Multiply the columns of a fold's matrices by scales, and divide what comes before them; the arrays are new ones.

    ModelError for scales of another size, not finite or not above 0, or that differ between heads that share their values.
    """
    columns = getattr(weights, fold.matrices[0]).shape[1]
    if scales.shape != (columns,) or not (np.isfinite(scales) & (scales > 0)).all():
        found = f"shape {scales.shape}, {scales.min(initial=1)} to {scales.max(initial=1)}"
        raise ModelError(f"{fold.stem}: expected {columns:,} finite scales above 0, found {found}.")
    changed = {name: getattr(weights, name) * scales for name in fold.matrices}
    outputs = of_values(scales, config) if fold.before == "v" else scales
    before = getattr(weights, fold.before)
    changed[fold.before] = before / (outputs if before.ndim == 1 else outputs[:, None])
    if fold.before == "v" and weights.v_bias is not None:
        changed["v_bias"] = weights.v_bias / outputs
    return replace(weights, **changed)


def with_outliers(transformer: Transformer, times: float = 20, share: float = 0.02, seed: int = 0) -> Transformer:
    """Make a model that computes the same and rounds badly: behind each norm a share of the weights' columns is so many times as
    large, and what flows into them as many times smaller.

    To show what a method does about outliers, on a model that has none. At least one channel of each norm is enlarged. Large
    models have outliers in the activations: with_activation_outliers.
    """
    config, rng, layers = transformer.config, np.random.default_rng(seed), []
    for weights in transformer.weights.layers:
        for fold in (FOLDS[0], FOLDS[2]):
            scales = np.ones(config.d_model, np.float32)
            scales[rng.choice(config.d_model, max(1, round(share * config.d_model)), replace=False)] = times
            weights = folded(weights, fold, scales, config)
        layers.append(weights)
    return Transformer(config, replace(transformer.weights, layers=layers), transformer.ops, transformer.kv)


def with_activation_outliers(transformer: Transformer, times: float = 20, share: float = 0.02, seed: int = 0) -> Transformer:
    """Make a model that computes the same, and in whose activations a share of the channels is so many times as large.

    They are behind each norm. The weights that take them are as many times smaller.
    """
    return with_outliers(transformer, 1 / times, share, seed)


def of_values(scales: Array, config: ModelConfig) -> Array:  # (heads · d_head,) -> (kv_heads · d_head,)
    """Take the scales of the values from those of o's columns. ModelError where heads that share values differ."""
    heads = by_values(scales, config)
    if (heads != heads[:, :1]).any():
        raise ModelError("attn_output: heads that share their values must share their scales, found different ones.")
    return heads[:, 0].reshape(-1)


def shared(magnitudes: Array, config: ModelConfig) -> Array:  # (heads · d_head,) -> same
    """Give heads that share their values the mean of their magnitudes, so that scales made of these can be folded."""
    heads = by_values(magnitudes, config)
    return np.broadcast_to(heads.mean(axis=1, keepdims=True), heads.shape).reshape(-1)


def by_values(columns: Array, config: ModelConfig) -> Array:  # (heads · d_head,) -> (kv_heads, heads of each, d_head)
    return columns.reshape(config.n_kv_heads, -1, config.d_head)
