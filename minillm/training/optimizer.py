"""AdamW: each weight gets its own step size, and decay is no part of the gradient.

Two running means a weight: m of its gradient, v of the gradient's square. m / sqrt(v) is about ±1 where the gradient keeps
its sign and near 0 where it is noise, whatever its scale. Both start at 0 and are too small at first: divide by 1 - βᵗ.

    m ← β₁ m + (1 - β₁) g          m̂ = m / (1 - β₁ᵗ)
    v ← β₂ v + (1 - β₂) g²         v̂ = v / (1 - β₂ᵗ)
    w ← w - η λ w - η m̂ / (sqrt(v̂) + ε)

Decay λ added to the gradient would be divided by sqrt(v̂) with the rest; taken from w itself it is the same share for every
weight. Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101.
"""

import math

import numpy as np
from numpy import ndarray as Array

CHUNK = 2**15  # values: five arrays of them stay in a core's cache, and memory is read once, not once an operation


def decays(parameter: Array) -> bool:
    """Whether a parameter decays: matrices do, embedding and head among them. Norms and biases do not: 0 is not better."""
    return parameter.ndim > 1


def zeros_like(parameters: dict[str, Array]) -> dict[str, Array]:
    """Make the moments before the first step."""
    return {name: np.zeros_like(array) for name, array in parameters.items()}


def adamw(
    parameters: dict[str, Array], gradients: dict[str, Array], first: dict[str, Array], second: dict[str, Array], step: int,
    rate: float, *, beta1: float, beta2: float, epsilon: float, weight_decay: float
) -> None:
    """Make one step of AdamW, in place: parameters, and both moments. All are {name: array} of the same names and shapes.

    All but the gradients are contiguous.

    step: counts from 1. rate: η of this step. Gradients are left as they are.
    """
    for name, parameter in parameters.items():
        decay = weight_decay if decays(parameter) else 0.0
        gradient = gradients[name].reshape(-1)  # only read: a copy does no harm
        w_all, m_all, v_all = (flat_view(a) for a in (parameter, first[name], second[name]))
        for start in range(0, parameter.size, CHUNK):
            w, g, m, v = (a[start : start + CHUNK] for a in (w_all, gradient, m_all, v_all))
            update(w, g, m, v, step, rate, decay, beta1, beta2, epsilon)


def update(  # (n,) four times, int, five floats
    w: Array, g: Array, m: Array, v: Array, t: int, rate: float, decay: float, beta1: float, beta2: float, epsilon: float
) -> None:
    """Make one step of AdamW for n weights w with gradients g: w and their moments m and v change in place."""
    # BEGIN SOLUTION ex=16.3
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    denominator = np.sqrt(v)
    denominator /= math.sqrt(1 - beta2**t)  # sqrt(v / (1 - β₂ᵗ))
    denominator += epsilon
    w *= 1 - rate * decay
    w -= (rate / (1 - beta1**t)) * m / denominator
    # END SOLUTION


def flat_view(array: Array) -> Array:  # -> (size,), the same memory
    """View an array as one axis. One that is not contiguous would be copied, and the step would be lost: ValueError."""
    if not array.flags.c_contiguous:
        raise ValueError("AdamW works in place and needs contiguous arrays")
    return array.reshape(-1)


def clip(gradients: dict[str, Array], largest: float) -> float:
    """Scale all gradients, in place, by one factor so that their common norm is at most `largest`; give back the norm before.

    One factor for all keeps the direction: a batch that is off pulls less, not elsewhere. The norm is summed in float64:
    squares overflow float32 from 1.8e19 on. A norm that is not finite scales nothing. Pascanu et al. 2013, arXiv:1211.5063.
    """
    norm = math.sqrt(sum(float(np.einsum("i,i->", g, g, dtype=np.float64)) for g in map(np.ravel, gradients.values())))
    if math.isfinite(norm) and norm > largest:
        for gradient in gradients.values():
            gradient *= largest / norm
    return norm
