"""The layers of a Llama: small pure functions from arrays to arrays.

A transformer of this family needs five operations beside attention. A token's number becomes a vector (`embed`); vectors
are multiplied by weight matrices (`linear`), kept at a steady length (`rms_norm`), turned by an angle that grows with
their position (`rope`), and passed through a gated curve (`swiglu`). A layer is made of them in two halves, before and
after attention (`attention_inputs`, `add_feed_forward`). Each takes and gives float32; the shapes stand on the `def` line.
These are the reference: written to be read, and what every fast backend is tested against.

Zhang and Sennrich 2019, arXiv:1910.07467 (RMSNorm). Su et al. 2021, arXiv:2104.09864 (RoPE). Shazeer 2020,
arXiv:2002.05202 (SwiGLU). Touvron et al. 2023, arXiv:2302.13971 (all of them together: Llama).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy import ndarray as Array


def embed(tokens: Array, table: Array) -> Array:  # (tokens,), (vocab, d) -> (tokens, d)
    """Look up one row of the table for each token id."""
    return table[tokens]


def linear(  # (tokens, d_in), (d_out, d_in), (d_out,) -> (tokens, d_out)
    x: Array, weight: Array, bias: Array | None = None
) -> Array:
    """x times the transposed weight: each row of the weight is one output's recipe, as files and papers store it."""
    y = x @ weight.T
    return y if bias is None else y + bias


def rms_norm(x: Array, weight: Array, eps: float) -> Array:  # (..., d), (d,) -> (..., d)
    """Divide each vector by its root mean square, then scale each component by its weight.

    A vector is the last axis, however many axes come before it: tokens, or tokens and heads. LayerNorm without the mean and
    the bias. eps belongs to the mean square, so that a vector of zeros stays zeros and one much smaller than √eps stays small.
    float32 in, float32 out; x is the caller's and keeps its values. Zhang and Sennrich 2019.
    """
    # BEGIN SOLUTION ex=01.1
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + eps) * weight
    # END SOLUTION


def rope_frequencies(d_head: int, base: float) -> Array:  # -> (d_head/2,)
    """Compute the frequency of each pair of components, in radians per token: base^(-2i/d), from 1 down to almost 1/base."""
    return (base ** (-np.arange(0, d_head, 2) / d_head)).astype(np.float32)


def rope_angles(  # (tokens,), (d/2,) -> (tokens, d/2), (tokens, d/2)
    positions: Array, frequencies: Array, magnitude: float = 1.0
) -> tuple[Array, Array]:
    """Cosine and sine of position × frequency, for each position and each pair of components.

    magnitude: of both, so that what `rope` turns with them grows by it too: YaRN's temperature (model/rope_scaling.py).
    """
    angles = np.asarray(positions, np.float32)[:, None] * frequencies
    cos, sin = np.cos(angles), np.sin(angles)
    return (cos, sin) if magnitude == 1 else (cos * np.float32(magnitude), sin * np.float32(magnitude))


def rope(  # (tokens, heads, d), (tokens, d/2), (tokens, d/2) -> (tokens, heads, d)
    x: Array, cos: Array, sin: Array, interleaved: bool
) -> Array:
    """Rotary position embedding: turn pair i of each head's vector at position p by the angle p × frequency[i].

        [a', b'] = [a cos - b sin, a sin + b cos]

    A rotation keeps lengths, and the dot product of two turned vectors depends on the *difference* of their positions
    alone: that is how attention learns distance. Which components form pair i is a convention of the file:
    interleaved (components 2i and 2i+1, as in the paper and in Llama's GGUF files) or by halves (components i and
    i + d/2, as in Qwen and in the transformers library). float32 in, float32 out.
    """
    # BEGIN SOLUTION ex=01.2
    half = x.shape[-1] // 2
    first = np.s_[..., 0::2] if interleaved else np.s_[..., :half]
    second = np.s_[..., 1::2] if interleaved else np.s_[..., half:]
    a, b = x[first], x[second]
    cos, sin = cos[:, None, :], sin[:, None, :]  # the same angle for every head
    turned = np.empty_like(x)
    turned[first] = a * cos - b * sin
    turned[second] = a * sin + b * cos
    return turned
    # END SOLUTION


def silu(x: Array) -> Array:  # (...) -> (...)
    """x × sigmoid(x): near zero for negative x, near x for positive x, smooth between."""
    with np.errstate(over="ignore"):  # exp(-x) of a very negative x is inf, and x / inf is the right answer: -0
        return x / (1.0 + np.exp(-x))


def swiglu(gate: Array, up: Array) -> Array:  # (tokens, d_ff), (tokens, d_ff) -> (tokens, d_ff)
    """Apply the gated activation of the feed-forward layer: one half decides how much of the other passes."""
    return silu(gate) * up


def attention_inputs(x: Array, w: Any, c: Any, cos: Array, sin: Array, linear: Callable = linear) -> tuple[Array, Array, Array]:
    """(tokens, d_model) -> (tokens, heads, d), (tokens, kv_heads, d), (tokens, kv_heads, d)

    The first half of a layer: norm, then each token's queries, keys and values, turned to its position. w: a layer's
    weights by name (model.weights.LayerWeights), c: the model's shape (model.config.ModelConfig). linear: a backend's own.
    """
    n, h = len(x), rms_norm(x, w.attn_norm, c.norm_eps)
    q = linear(h, w.q, w.q_bias).reshape(n, c.n_heads, c.d_head)
    k = linear(h, w.k, w.k_bias).reshape(n, c.n_kv_heads, c.d_head)
    v = linear(h, w.v, w.v_bias).reshape(n, c.n_kv_heads, c.d_head)
    if c.qk_norm:
        q, k = rms_norm(q, w.q_norm, c.norm_eps), rms_norm(k, w.k_norm, c.norm_eps)
    return rope(q, cos, sin, c.rope_interleaved), rope(k, cos, sin, c.rope_interleaved), v


def add_linear(x: Array, h: Array, weight: Array) -> Array:  # (tokens, d_out), (tokens, d_in), (d_out, d_in) -> (tokens, d_out)
    """Add x + h Wᵀ: how a part of a layer adds its result to the residual stream."""
    return x + linear(h, weight)


def add_feed_forward(x: Array, w: Any, c: Any, linear: Callable = linear) -> Array:  # (tokens, d_model) -> (tokens, d_model)
    """Add x + the second half of a layer, the feed-forward network. w, c, linear: as in attention_inputs."""
    h = rms_norm(x, w.ffn_norm, c.norm_eps)
    return x + linear(swiglu(linear(h, w.gate), linear(h, w.up)), w.down)


def run_layers(x: Array, layers: Sequence[Any], c: Any, angles: tuple[Array, Array], step: Any) -> Array:
    """(tokens, d_model) -> (tokens, d_model): all layers, one after another.

    layers, c: weights and shape of the model. angles: rope_angles of the tokens. step: what looks up other tokens' keys and
    values (backends.step.AttentionStep), made with the backend whose operations run.
    """
    ops = step.ops
    for index, w in enumerate(layers):
        q, k, v = ops.attention_inputs(x, w, c, *angles)
        x = ops.add_linear(x, step.attend(index, q, k, v).reshape(len(x), -1), w.o)
        x = ops.add_feed_forward(x, w, c)
    return x


def softmax(x: Array) -> Array:  # (..., n) -> (..., n)
    """exp(x) over its sum along the last axis, after subtracting the row's maximum so that exp cannot overflow.

    A row that is -inf throughout gives zeros: nothing is visible, so nothing is taken.
    """
    top = np.max(x, axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(x - np.where(np.isneginf(top), 0.0, top).astype(x.dtype))  # exp(-inf - -inf) would be NaN
    total = np.sum(weights, axis=-1, keepdims=True)
    return weights / np.where(total == 0.0, 1.0, total).astype(x.dtype)
