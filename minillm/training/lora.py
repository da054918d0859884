"""LoRA: leave a matrix as it is, and learn a thin one to add to it.

A weight matrix W has d_out · d_in numbers; what fine-tuning changes in it, ΔW, has low rank (that is the bet). So learn it
as a product of two thin matrices. B begins at zero: before the first step the model is what it was. W is frozen: it needs no
gradient and no moments, which are three quarters of the memory of training, and it may be kept in fewer bits (QLoRA).

    y = x Wᵀ + (α/r) (x Aᵀ) Bᵀ        A: (r, d_in), random      B: (d_out, r), zero        r (d_in + d_out) numbers to learn
    ΔW = (α/r) B A                    merged:  y = x (W + ΔW)ᵀ, the old cost;   or kept apart: many adapters, one model

    dB = (α/r) dyᵀ (x Aᵀ)      dA = (α/r) (dy B)ᵀ x      dx = dy W + (α/r) (dy B) A        never dW = dyᵀ x

Hu et al. 2021, arXiv:2106.09685. Names of arrays as in llama.cpp's adapters: NAME.lora_a, NAME.lora_b.
"""

import math
from dataclasses import dataclass

import numpy as np

from minillm.errors import ModelError, TrainingError
from minillm.layers import linear
from minillm.model.random_model import random_tensor, tensor_shapes
from minillm.training import model
from minillm.training.layer import Products, dense

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
A, B = ".lora_a", ".lora_b"


@dataclass(frozen=True, slots=True)
class Adapter:
    """What was learnt. weights: {"blk.0.attn_q.weight.lora_a": (r, d_in), "….lora_b": (d_out, r), …}; alpha: α."""

    weights: dict
    alpha: float

    def pairs(self):  # -> {name of the matrix: (A, B)}
        """The thin matrices, by the name of what they are added to."""
        return {n.removesuffix(A): (a, self.weights[n.removesuffix(A) + B]) for n, a in self.weights.items() if n.endswith(A)}


def lora_linear(x, weight, a, b, alpha):  # (T, d_in), (d_out, d_in), (r, d_in), (d_out, r), float -> (T, d_out)
    """y = x Wᵀ + (α/r) (x Aᵀ) Bᵀ, from right to left: r numbers a token lie between the two, and B A is never made."""
    # BEGIN SOLUTION ex=16.4
    y = linear(x, weight)
    low = (alpha / len(a)) * linear(x, a)  # (T, r)
    y += linear(low, b)
    # END SOLUTION
    return y


def lora_backward(x, a, b, alpha, d_y):  # …, (T, d_out) -> (T, d_in), (r, d_in), (d_out, r)
    """What the thin matrices add to dx, and their own gradients; d_y is that of y. x Aᵀ is made again: it costs little."""
    scale = alpha / len(a)
    d_low = scale * (d_y @ b)  # (T, r)
    return d_low @ a, d_low.T @ x, scale * (d_y.T @ linear(x, a))


def delta(a, b, alpha):  # (r, d_in), (d_out, r), float -> (d_out, d_in)
    """ΔW = (α/r) B A, what an adapter adds to a matrix."""
    return (alpha / len(a)) * (b @ a)


def merge(parameters, adapter):  # {name: array}, Adapter -> {name: array}
    """The weights with the adapter in them: W + ΔW, in float32. Those without an adapter are shared, not copied.

    parameters and their arrays stay as they are: others may be using the base. It may be packed; dense() gives floats.
    """
    # BEGIN SOLUTION ex=16.5
    merged = dict(parameters)
    for name, (a, b) in adapter.pairs().items():
        merged[name] = dense(parameters[name]) + delta(a, b, adapter.alpha)
    # END SOLUTION
    return merged


def unmerge(parameters, adapter):  # {name: array}, Adapter -> {name: array}
    """The way back, for a matrix of floats that was merged: W + ΔW - ΔW.

    Not bit for bit: each sum is rounded. With u = 2⁻²⁴ (float32) a weight comes back within u (|W + ΔW| + |W|), and a little
    more for the second order: the last bit or two, where ΔW is no larger than W. Keep the base, where bits matter.
    """
    parted = dict(parameters)
    for name, (a, b) in adapter.pairs().items():
        parted[name] = parameters[name] - delta(a, b, adapter.alpha)
    return parted


class Adapted(Products):
    """Products with frozen matrices, and with adapters beside those that have one: only these are trained."""

    def __init__(self, alpha):
        self.alpha = alpha

    def trains(self, name):
        return name.endswith((A, B))

    def needs_input(self, w, *names):
        return any(name + A in w for name in names)

    def forward(self, x, w, name):
        weight, a, b = dense(w[name]), w.get(name + A), w.get(name + B)
        return linear(x, weight) if a is None else lora_linear(x, weight, a, b, self.alpha)

    def backward(self, x, w, name, d_y, grads):
        d_x = d_y @ dense(w[name])
        if (a := w.get(name + A)) is not None:
            d_low, grads[name + A], grads[name + B] = lora_backward(x, a, w[name + B], self.alpha, d_y)
            d_x += d_low
        return d_x


def loss_and_gradients(config, base, alpha, weights, tokens, targets, *, recompute=False):
    """As model.loss_and_gradients, of an adapter's weights alone. No gradient of the base is computed.

    base: {name: array, or what has a dense()}; weights: {name: array}, those of an Adapter. The loop takes it as
    partial(loss_and_gradients, config, base, alpha).
    """
    products = Adapted(alpha)
    return model.loss_and_gradients(config, base | weights, tokens, targets, recompute=recompute, products=products)


def loss(config, base, alpha, weights, tokens, targets):  # -> float
    """As model.loss, of the base with an adapter."""
    return model.loss(config, base | weights, tokens, targets, products=Adapted(alpha))


def fresh_adapter(config, rank, alpha, matrices=("attn_q", "attn_v"), seed=0):  # ModelConfig, int, float -> Adapter
    """An adapter that changes nothing yet, on the same matrices of every layer. A's rows are of unit length, on average.

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


def adapted_shapes(config, matrices):  # -> {name: (d_out, d_in)}
    """The chosen matrices of every layer."""
    unknown = [m for m in matrices if m not in MATRICES]
    if unknown or not matrices:
        raise TrainingError(f"adapters go on {', '.join(MATRICES)}, found {', '.join(map(repr, unknown)) or 'none of them'}.")
    chosen = {f"blk.{i}.{matrix}.weight" for i in range(config.n_layers) for matrix in matrices}
    return {name: shape for name, shape in tensor_shapes(config).items() if name in chosen}


def adapter_parameters(config, rank, matrices=("attn_q", "attn_v")):  # -> int
    """Numbers to learn: r (d_in + d_out) a matrix."""
    return sum(rank * (d_out + d_in) for d_out, d_in in adapted_shapes(config, matrices).values())


def check_adapter(config, adapter, what):  # raises ModelError, which opens with `what`
    """Is an adapter from a stranger one for this model: known matrices, whole pairs, fitting shapes, finite numbers?"""
    check_shapes(config, {name: array.shape for name, array in adapter.weights.items()}, adapter.alpha, what)
    check_numbers(adapter.weights, what)


def check_shapes(config, found, alpha, what):  # ModelConfig, {name: shape}, float
    """All of it that can be known before a number is read."""
    shapes = adapted_shapes(config, MATRICES)
    if not found:
        raise ModelError(f"{what}: an adapter needs at least one pair of matrices, found none.")
    if isinstance(alpha, bool) or not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
        raise ModelError(f"{what}: alpha must be a number above 0, found {str(alpha)[:40]!r}.")
    for name, shape in found.items():
        matrix, side = name[: -len(A)], name[-len(A) :]
        other = matrix + (B if side == A else A)
        if side not in (A, B) or matrix not in shapes:
            known = f"adapters go on {', '.join(MATRICES)} of {config.n_layers:,} layers"
            raise ModelError(f"{what}: {name!r} belongs to nothing in {config.name}; {known}.")
        if other not in found:
            raise ModelError(f"{what}: {name!r} is there, its other half {other!r} is missing.")
        (d_out, d_in), of_a = shapes[matrix], found[matrix + A]
        rank, most = of_a[0] if of_a else 0, min(d_out, d_in)
        right = (rank, d_in) if side == A else (d_out, rank)
        if tuple(shape) != right:
            raise ModelError(f"{what}: {name!r} must have shape {right}, found {tuple(shape)}.")
        if not 1 <= rank <= most:
            raise ModelError(f"{what}: the rank of {name!r} must be 1 to {most:,}, that of the matrix, found {rank:,}.")


def check_numbers(weights, what):  # {name: array}
    """Finite, all of them."""
    for name, array in weights.items():
        if bad := int(np.count_nonzero(~np.isfinite(array))):
            raise ModelError(f"{what}: {name!r} has {bad:,} values that are not finite.")
