"""LoRA: leave a matrix as it is, and learn a thin one to add to it.

A weight matrix W has d_out · d_in numbers; what fine-tuning changes in it, ΔW, has low rank (that is the bet). So learn it
as a product of two thin matrices. B begins at zero: before the first step the model is what it was. W is frozen: it needs no
gradient and no moments, which are three quarters of the memory of training, and it may be kept in fewer bits (QLoRA).

    y = x Wᵀ + (α/r) (x Aᵀ) Bᵀ        A: (r, d_in), random      B: (d_out, r), zero        r (d_in + d_out) numbers to learn
    ΔW = (α/r) B A                    merged:  y = x (W + ΔW)ᵀ, the old cost;   or kept apart: many adapters, one model

Backwards, dy passes through W on its way down and W learns nothing: dW = dyᵀ x, as large as W itself, is never made. A and B
learn from their own small products (lora_backward).

Hu et al. 2021, arXiv:2106.09685. Names of arrays as in llama.cpp's adapters: NAME.lora_a, NAME.lora_b.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.errors import TrainingError
from minillm.layers import linear
from minillm.model.config import ModelConfig
from minillm.model.lora import A, Adapter, B, adapted_shapes, delta
from minillm.model.random_model import random_tensor
from minillm.training import model
from minillm.training.layer import Products, dense


def lora_linear(  # (T, d_in), (d_out, d_in), (r, d_in), (d_out, r), float -> (T, d_out)
    x: Array, weight: Array, a: Array, b: Array, alpha: float
) -> Array:
    """Compute y = x Wᵀ + (α/r) (x Aᵀ) Bᵀ, from right to left: r numbers a token between the two, and B A is never made.

    y is of the type of x and W.
    """
    y = linear(x, weight)
    low = (alpha / len(a)) * linear(x, a)  # (T, r)
    y += linear(low, b)
    return y


def lora_backward(  # …, (T, d_out) -> (T, d_in), (r, d_in), (d_out, r)
    x: Array, a: Array, b: Array, alpha: float, d_y: Array
) -> tuple[Array, Array, Array]:
    """Compute the gradients of an adapter: what A and B add to dx, dA and dB, where dy is that of y = x Wᵀ + (α/r) (x Aᵀ) Bᵀ.

    Each has the shape of what it is the gradient of. Tokens add up: the loss has its mean over them already. No array is larger
    than x, y, A or B: a gradient as large as W is what LoRA is there to avoid. Nothing that is given is changed. x Aᵀ was not
    kept by forward, to save memory; it costs little to compute again.
    """
    # BEGIN SOLUTION ex=16.4
    scale = alpha / len(a)
    d_low = scale * (d_y @ b)  # (T, r), the gradient of x Aᵀ
    d_x, d_a = d_low @ a, d_low.T @ x
    d_b = scale * (d_y.T @ linear(x, a))
    # END SOLUTION
    return d_x, d_a, d_b


def merge(parameters: Mapping[str, Array], adapter: Adapter) -> dict[str, Array]:
    """Merge an adapter into the weights: W + ΔW, in float32. Weights without an adapter are shared, not copied.

    parameters and their arrays stay as they are: others may be using the base. It may be packed; dense() gives floats.
    """
    # BEGIN SOLUTION ex=16.5
    merged = dict(parameters)
    for name, (a, b) in adapter.pairs().items():
        merged[name] = dense(parameters[name]) + delta(a, b, adapter.alpha)
    # END SOLUTION
    return merged


def unmerge(parameters: Mapping[str, Array], adapter: Adapter) -> dict[str, Array]:
    """Undo a merge, for a matrix of floats: W + ΔW - ΔW.

    Not bit for bit: each sum is rounded. With u = 2⁻²⁴ (float32) a weight comes back within u (|W + ΔW| + |W|), and a little
    more for the second order: the last bit or two, where ΔW is no larger than W. Keep the base, where bits matter.
    """
    parted = dict(parameters)
    for name, (a, b) in adapter.pairs().items():
        parted[name] = parameters[name] - delta(a, b, adapter.alpha)
    return parted


class LoRAProducts(Products):
    """Products with frozen matrices, and with adapters beside those that have one: only these are trained."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def trains(self, name: str) -> bool:
        return name.endswith((A, B))

    def needs_input(self, w: Mapping[str, Any], *names: str) -> bool:
        return any(name + A in w for name in names)

    def forward(self, x: Array, w: Mapping[str, Any], name: str) -> Array:
        weight, a, b = dense(w[name]), w.get(name + A), w.get(name + B)
        return linear(x, weight) if a is None or b is None else lora_linear(x, weight, a, b, self.alpha)

    def backward(self, x: Any, w: Mapping[str, Any], name: str, d_y: Array, grads: dict[str, Array]) -> Array:
        d_x = d_y @ dense(w[name])
        if (a := w.get(name + A)) is not None:
            d_low, grads[name + A], grads[name + B] = lora_backward(x, a, w[name + B], self.alpha, d_y)
            d_x += d_low
        return d_x


def loss_and_gradients(
    config: ModelConfig, base: Mapping[str, Any], alpha: float, weights: dict[str, Array], tokens: Array, targets: Array, *,
    recompute: bool = False
) -> tuple[float, dict[str, Array]]:
    """Compute model.loss_and_gradients of an adapter's weights alone. No gradient of the base is computed.

    base: {name: array, or what has a dense()}; weights: {name: array}, those of an Adapter. The loop takes it as
    partial(loss_and_gradients, config, base, alpha).
    """
    products = LoRAProducts(alpha)
    return model.loss_and_gradients(config, {**base, **weights}, tokens, targets, recompute=recompute, products=products)


def loss(
    config: ModelConfig, base: Mapping[str, Any], alpha: float, weights: dict[str, Array], tokens: Array, targets: Array
) -> float:
    """Compute model.loss of the base with an adapter."""
    return model.loss(config, {**base, **weights}, tokens, targets, products=LoRAProducts(alpha))


def fresh_adapter(
    config: ModelConfig, rank: int, alpha: float, matrices: Sequence[str] = ("attn_q", "attn_v"), seed: int = 0
) -> Adapter:
    """Initialize an adapter that changes nothing yet, on the same matrices of every layer. A's rows have unit length, on average.

    TrainingError: a matrix that there is not, a rank above a matrix's own, an alpha that is not a number above 0.
    """
    shapes, weights = adapted_shapes(config, matrices), {}
    least = min(min(shape) for shape in shapes.values())
    if type(rank) is not int or not 1 <= rank <= least:
        name = min(shapes, key=lambda name: min(shapes[name]))
        raise TrainingError(f"the rank must be 1 to {least:,}, that of {name} {shapes[name]}, found {rank!r}.")
    if isinstance(alpha, bool) or not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
        raise TrainingError(f"alpha must be a number above 0, found {alpha!r}.")
    for name, (d_out, d_in) in shapes.items():
        weights[name + A] = random_tensor(name + A, (rank, d_in), seed)
        weights[name + B] = np.zeros((d_out, rank), np.float32)
    return Adapter(weights, float(alpha))


