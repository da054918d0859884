"""One layer of the transformer, forwards and backwards.

The stream x passes each half of a layer on two ways: straight through, and through a norm and some matrices whose result is
added. So its gradient also comes back on two ways, and is the sum: dx = dy + (what came back through the branch). The straight
way is why a deep stack can be trained at all: the gradient reaches the first layer whatever the branches do.

    x ─┬─ norm ─ q,k,v ─ rope ─ attention ─ o ─ + ─ m ─┬─ norm ─ gate,up ─ swiglu ─ down ─ + ─ y
       └────────────────────────────────────────┘      └───────────────────────────────────┘

Backward needs what forward saw: Activations, some 12 arrays for each layer, the memory of training. Or only x, and forward
is run once more (activation recomputation: a third more arithmetic, Chen et al. 2016, arXiv:1604.06174).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.layers import linear, rms_norm, rope, swiglu
from minillm.model.config import ModelConfig
from minillm.training.attention import attention_forward, attention_gradients
from minillm.training.gradients import linear_backward, rms_norm_backward, rope_backward, swiglu_backward


@dataclass(slots=True)
class Activations:
    """What one layer keeps for backward. T tokens of all sequences, one after another; names as in the picture above.

    q and k are turned by RoPE; where the model norms them (Qwen3), q_raw and k_raw are from before the norm. h, h_m and act are
    there for dW alone: None where all matrices that they were multiplied by are frozen.
    """

    x: np.ndarray  # (T, d_model)
    h: np.ndarray | None  # (T, d_model), normed x
    q: np.ndarray  # (T, heads, d_head)
    k: np.ndarray  # (T, kv_heads, d_head)
    v: np.ndarray  # (T, kv_heads, d_head)
    out: np.ndarray  # (T, heads · d_head), of attention
    lse: np.ndarray  # (batch, heads, length)
    m: np.ndarray  # (T, d_model)
    h_m: np.ndarray | None  # (T, d_model), normed m
    gate: np.ndarray  # (T, d_ff)
    up: np.ndarray  # (T, d_ff)
    act: np.ndarray | None  # (T, d_ff), swiglu(gate, up)
    q_raw: np.ndarray | None = None
    k_raw: np.ndarray | None = None


class Products:
    """How a model multiplies by its matrices, forwards and backwards: here every weight is trained. lora.py freezes them.

    w: weights by name, of one layer or of the model; name: which of them.
    """

    def trains(self, name: str) -> bool:
        """Whether this weight has a gradient."""
        return True

    def needs_input(self, w: Mapping[str, Any], *names: str) -> bool:
        """Whether backward needs the inputs of any of these matrices."""
        return True

    def forward(self, x: Array, w: Mapping[str, Any], name: str) -> Array:  # (T, d_in) -> (T, d_out)
        return linear(x, w[name])

    def backward(  # (T, d_in) or None, …, (T, d_out), {name: gradient} -> (T, d_in)
        self, x: Any, w: Mapping[str, Any], name: str, d_y: Array, grads: dict[str, Array]
    ) -> Array:
        """Compute the gradient of x, and enter those of trained weights in grads. x: None where it is not needed."""
        d_x, grads[name] = linear_backward(x, w[name], d_y)
        return d_x


EVERY_WEIGHT = Products()


def dense(weight: Any) -> Array:  # (d_out, d_in), or what has a dense() that makes it -> (d_out, d_in)
    """Return a matrix of floats. A frozen one may be kept in fewer bits; it is dequantized at each use, and not kept."""
    return weight if isinstance(weight, np.ndarray) else weight.dense()


def layer_forward(
    x: Array, w: Mapping[str, Any], c: ModelConfig, angles: tuple[Array, Array], batch: int, products: Products = EVERY_WEIGHT
) -> tuple[Array, Activations]:
    """(T, d_model) -> (T, d_model), Activations. The mathematics of layers.run_layers, for whole sequences at once.

    w: the layer's weights by short name ("attn_q.weight"). c: ModelConfig. angles: cos and sin of every token,
    (T, d_head/2) each. batch: how many sequences the T tokens are, all of the same length. products: see there.
    """
    T, times = len(x), partial(products.forward, w=w)
    h = rms_norm(x, w["attn_norm.weight"], c.norm_eps)
    q_raw, k_raw, v = (biased(times(h, name=f"attn_{n}.weight"), w.get(f"attn_{n}.bias")).reshape(T, -1, c.d_head) for n in "qkv")
    q, k = q_raw, k_raw
    if c.qk_norm:
        q, k = rms_norm(q, w["attn_q_norm.weight"], c.norm_eps), rms_norm(k, w["attn_k_norm.weight"], c.norm_eps)
    q, k = rope(q, *angles, c.rope_interleaved), rope(k, *angles, c.rope_interleaved)
    out, lse = attention_forward(*by_sequence(batch, q, k, v))
    out = out.reshape(T, -1)
    m = x + times(out, name="attn_output.weight")

    h_m = rms_norm(m, w["ffn_norm.weight"], c.norm_eps)
    gate, up = times(h_m, name="ffn_gate.weight"), times(h_m, name="ffn_up.weight")
    act = swiglu(gate, up)
    y = m + times(act, name="ffn_down.weight")
    raw = (q_raw, k_raw) if c.qk_norm else ()
    kept_h = h if products.needs_input(w, "attn_q.weight", "attn_k.weight", "attn_v.weight") else None
    kept_h_m = h_m if products.needs_input(w, "ffn_gate.weight", "ffn_up.weight") else None
    kept_act = act if products.needs_input(w, "ffn_down.weight") else None
    return y, Activations(x, kept_h, q, k, v, out, lse, m, kept_h_m, gate, up, kept_act, *raw)


def biased(y: Array, bias: Array | None) -> Array:  # (T, d), (d,) or None -> (T, d)
    return y if bias is None else y + bias


def layer_backward(
    d_y: Array, a: Activations, w: Mapping[str, Any], c: ModelConfig, angles: tuple[Array, Array], batch: int,
    products: Products = EVERY_WEIGHT
) -> tuple[Array, dict[str, Array]]:
    """(T, d_model), Activations -> (T, d_model), {short name: gradient}. w, c, angles, batch, products: as in layer_forward.

    d_y, the gradient of the layer's output, becomes that of its input in place.
    """
    grads: dict[str, Array] = {}
    d_x = d_y
    back = partial(products.backward, w=w, grads=grads)
    d_gate, d_up = swiglu_backward(a.gate, a.up, back(a.act, name="ffn_down.weight", d_y=d_x))
    d_h: Any = back(a.h_m, name="ffn_gate.weight", d_y=d_gate)
    d_h += back(a.h_m, name="ffn_up.weight", d_y=d_up)
    d_m, grads["ffn_norm.weight"] = rms_norm_backward(a.m, w["ffn_norm.weight"], c.norm_eps, d_h)
    d_x += d_m

    d_q, d_k, d_v = attention_backward(a, back(a.out, name="attn_output.weight", d_y=d_x), batch)
    d_q, d_k = rope_backward(d_q, *angles, c.rope_interleaved), rope_backward(d_k, *angles, c.rope_interleaved)
    if a.q_raw is not None and a.k_raw is not None:  # the model norms them
        d_q, grads["attn_q_norm.weight"] = rms_norm_backward(a.q_raw, w["attn_q_norm.weight"], c.norm_eps, d_q)
        d_k, grads["attn_k_norm.weight"] = rms_norm_backward(a.k_raw, w["attn_k_norm.weight"], c.norm_eps, d_k)
    d_h = None
    for n, d in zip("qkv", (d_q, d_k, d_v), strict=True):
        d = d.reshape(len(d_x), -1)
        d_part = back(a.h, name=f"attn_{n}.weight", d_y=d)
        d_h = d_part if d_h is None else np.add(d_h, d_part, out=d_h)
        if c.qkv_bias:
            grads[f"attn_{n}.bias"] = d.sum(axis=0)
    d_branch, grads["attn_norm.weight"] = rms_norm_backward(a.x, w["attn_norm.weight"], c.norm_eps, d_h)
    d_x += d_branch
    return d_x, grads


def attention_backward(  # Activations, (T, heads · d_head) -> (T, heads, d), (T, kv_heads, d) twice
    a: Activations, d_out: Array, batch: int
) -> list[Array]:
    """Compute dq, dk and dv, sequence by sequence."""
    out, d_out = a.out.reshape(a.q.shape), d_out.reshape(a.q.shape)
    q, k, v, out, d_out = by_sequence(batch, a.q, a.k, a.v, out, d_out)
    return [d.reshape(-1, *d.shape[2:]) for d in attention_gradients(q, k, v, out, a.lse, d_out)]


def by_sequence(batch: int, *arrays: Array) -> list[Array]:  # (T, heads, d) each -> (batch, T/batch, heads, d) each
    """View the same arrays as sequences."""
    return [a.reshape(batch, -1, *a.shape[1:]) for a in arrays]
