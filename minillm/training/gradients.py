"""The backward pass of each layer: from the gradient of what it gave to the gradients of what it took.

A loss L is one number. For each array a of the forward pass the backward pass finds ∂L/∂a, written da, of a's own shape:
how L changes when a does. The chain rule does it layer by layer, from the last to the first. A layer y = f(x, w) needs to
know only dy, and what it saw itself; it answers dx, for the layer below, and dw, for the optimizer.

    linear      y = x Wᵀ                          dx = dy W            dW = dyᵀ x
    RMSNorm     y = w ∘ x̂,  x̂ = x r               dx = r (g - x̂ mean(g ∘ x̂)),  g = dy ∘ w       dw = Σ dy ∘ x̂
                r = 1 / √(mean(x²) + ε)
    RoPE        y = R x, a rotation               dx = Rᵀ dy: turned back
    SwiGLU      y = silu(a) ∘ b,  s = σ(a)        da = dy ∘ b ∘ s (1 + a (1 - s))               db = dy ∘ a s
    embedding   y = rows of E                     dE: each row of dy is added to the row it came from

Each is the twin of a function in layers.py, and recomputes from its inputs what is cheap, instead of keeping it. The type
of the arrays decides the precision: float32 to train, float64 to compare with differences (f(x + h) - f(x - h)) / 2h.

Rumelhart, Hinton and Williams 1986, doi:10.1038/323533a0 (backpropagation). Zhang and Sennrich 2019, arXiv:1910.07467.
Shazeer 2020, arXiv:2002.05202.
"""

import numpy as np
from numpy import ndarray as Array

from minillm.layers import rope


def linear_backward(  # (tokens, d_in), (d_out, d_in), (tokens, d_out) -> (tokens, d_in), (d_out, d_in)
    x: Array, weight: Array, d_y: Array
) -> tuple[Array, Array]:
    """Compute dx and dW of y = x Wᵀ: two products where forward had one, which is why training costs three times the forward.

    dx mixes the rows of W by how much each output mattered; dW sums one outer product for each token. (The gradient of a
    bias, where there is one, is d_y.sum(axis=0).)
    """
    return d_y @ weight, d_y.T @ x


def rms_norm_backward(  # (..., d), (d,), (..., d) -> (..., d), (d,)
    x: Array, weight: Array, eps: float, d_y: Array
) -> tuple[Array, Array]:
    """Compute dx and dw of y = w ∘ x̂, where x̂ = x r and r = 1 / √(mean(x²) + ε) for each vector.

    r depends on every component of x: that is the second term. It takes out of g what points along x̂, for making a vector
    longer does not change its direction, and y is (but for ε) its direction alone.
    """
    d = x.shape[-1]
    r = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
    x_hat = x * r
    # BEGIN SOLUTION ex=16.2
    d_weight = np.einsum("td,td->d", d_y.reshape(-1, d), x_hat.reshape(-1, d))
    d_x = d_y * weight  # g
    x_hat *= np.einsum("...d,...d->...", d_x, x_hat)[..., None] / d
    d_x -= x_hat
    d_x *= r
    # END SOLUTION
    return d_x, d_weight


def rope_backward(  # (tokens, heads, d), (tokens, d/2), (tokens, d/2) -> (tokens, heads, d)
    d_y: Array, cos: Array, sin: Array, interleaved: bool
) -> Array:
    """Compute dx of y = R x. The transpose of a rotation is the rotation back: the same angles, with the other sign."""
    return rope(d_y, cos, -sin, interleaved)


def swiglu_backward(  # (tokens, d_ff) three times -> (tokens, d_ff), (tokens, d_ff)
    gate: Array, up: Array, d_y: Array
) -> tuple[Array, Array]:
    """Compute d_gate and d_up of y = silu(gate) ∘ up, where silu(a) = a s and s = σ(a) = 1 / (1 + exp(-a)).

    silu'(a) = s + a s (1 - s) = s (1 + a (1 - s))
    """
    s = sigmoid(gate)
    d_up = gate * s
    d_gate = gate - d_up  # a (1 - s)
    d_gate += 1
    d_gate *= s
    d_gate *= up
    d_gate *= d_y
    d_up *= d_y
    return d_gate, d_up


def sigmoid(x: Array) -> Array:  # (...) -> (...)
    """Compute σ(x) = 1 / (1 + exp(-x)), from 0 to 1, with one new array."""
    s = np.negative(x)
    with np.errstate(over="ignore"):  # exp of a large number is inf, and 1 / inf is the right answer: 0
        np.exp(s, out=s)
    s += 1
    return np.reciprocal(s, out=s)


def embedding_backward(  # (tokens,), (tokens, d), (vocab, d): added to in place
    tokens: Array, d_y: Array, d_table: Array
) -> None:
    """Add to d_table each token's gradient, in the row that the token was looked up in; a token seen twice adds twice.

    `d_table[tokens] += d_y` would keep the last of equal tokens only. Sorted by token, equal ones stand side by side.
    """
    order = np.argsort(tokens, kind="stable")
    rows, starts = np.unique(tokens[order], return_index=True)
    d_table[rows] += np.add.reduceat(d_y[order], starts, axis=0)
