"""One layer of the transformer, forwards and backwards.

The stream x passes each half of a layer on two ways: straight through, and through a norm and some matrices whose result is
added. So its gradient also comes back on two ways, and is the sum: dx = dy + (what came back through the branch). The straight
way is why a deep stack can be trained at all: the gradient reaches the first layer whatever the branches do.

    x ─┬─ norm ─ q,k,v ─ rope ─ attention ─ o ─ + ─ m ─┬─ norm ─ gate,up ─ swiglu ─ down ─ + ─ y
       └────────────────────────────────────────┘      └───────────────────────────────────┘

Backward needs what forward saw: Activations, some 12 arrays for each layer, the memory of training. Or only x, and forward
is run once more (activation recomputation: a third more arithmetic, Chen et al. 2016, arXiv:1604.06174).
"""

from dataclasses import dataclass

import numpy as np

from minillm.layers import add_linear, linear, rms_norm, rope, swiglu
from minillm.training.attention import attention_forward, attention_gradients
from minillm.training.gradients import linear_backward, rms_norm_backward, rope_backward, swiglu_backward


@dataclass(slots=True)
class Activations:
    """What one layer keeps for backward. T tokens of all sequences, one after another; names as in the picture above.

    q and k are turned by RoPE; where the model norms them (Qwen3), q_raw and k_raw are from before the norm.
    """

    x: np.ndarray  # (T, d_model)
    h: np.ndarray  # (T, d_model), normed x
    q: np.ndarray  # (T, heads, d_head)
    k: np.ndarray  # (T, kv_heads, d_head)
    v: np.ndarray  # (T, kv_heads, d_head)
    out: np.ndarray  # (T, heads · d_head), of attention
    lse: np.ndarray  # (batch, heads, length)
    m: np.ndarray  # (T, d_model)
    h_m: np.ndarray  # (T, d_model), normed m
    gate: np.ndarray  # (T, d_ff)
    up: np.ndarray  # (T, d_ff)
    act: np.ndarray  # (T, d_ff), swiglu(gate, up)
    q_raw: np.ndarray | None = None
    k_raw: np.ndarray | None = None


def layer_forward(x, w, c, angles, batch):
    """(T, d_model) -> (T, d_model), Activations. The mathematics of layers.run_layers, for whole sequences at once.

    w: the layer's weights by short name ("attn_q.weight"). c: ModelConfig. angles: cos and sin of every token,
    (T, d_head/2) each. batch: how many sequences the T tokens are, all of the same length.
    """
    T = len(x)
    h = rms_norm(x, w["attn_norm.weight"], c.norm_eps)
    q_raw, k_raw, v = (linear(h, w[f"attn_{n}.weight"], w.get(f"attn_{n}.bias")).reshape(T, -1, c.d_head) for n in "qkv")
    q, k = q_raw, k_raw
    if c.qk_norm:
        q, k = rms_norm(q, w["attn_q_norm.weight"], c.norm_eps), rms_norm(k, w["attn_k_norm.weight"], c.norm_eps)
    q, k = rope(q, *angles, c.rope_interleaved), rope(k, *angles, c.rope_interleaved)
    out, lse = attention_forward(*by_sequence(batch, q, k, v))
    out = out.reshape(T, -1)
    m = add_linear(x, out, w["attn_output.weight"])

    h_m = rms_norm(m, w["ffn_norm.weight"], c.norm_eps)
    gate, up = linear(h_m, w["ffn_gate.weight"]), linear(h_m, w["ffn_up.weight"])
    act = swiglu(gate, up)
    y = add_linear(m, act, w["ffn_down.weight"])
    raw = (q_raw, k_raw) if c.qk_norm else ()
    return y, Activations(x, h, q, k, v, out, lse, m, h_m, gate, up, act, *raw)


def layer_backward(d_y, a, w, c, angles, batch):
    """(T, d_model), Activations -> (T, d_model), {short name: gradient}. w, c, angles, batch: as in layer_forward.

    d_y, the gradient of the layer's output, becomes that of its input in place.
    """
    grads, d_x = {}, d_y
    d_act, grads["ffn_down.weight"] = linear_backward(a.act, w["ffn_down.weight"], d_x)
    d_gate, d_up = swiglu_backward(a.gate, a.up, d_act)
    d_h, grads["ffn_gate.weight"] = linear_backward(a.h_m, w["ffn_gate.weight"], d_gate)
    d_h_up, grads["ffn_up.weight"] = linear_backward(a.h_m, w["ffn_up.weight"], d_up)
    d_h += d_h_up
    d_m, grads["ffn_norm.weight"] = rms_norm_backward(a.m, w["ffn_norm.weight"], c.norm_eps, d_h)
    d_x += d_m

    d_out, grads["attn_output.weight"] = linear_backward(a.out, w["attn_output.weight"], d_x)
    d_q, d_k, d_v = attention_backward(a, d_out, batch)
    d_q, d_k = rope_backward(d_q, *angles, c.rope_interleaved), rope_backward(d_k, *angles, c.rope_interleaved)
    if c.qk_norm:
        d_q, grads["attn_q_norm.weight"] = rms_norm_backward(a.q_raw, w["attn_q_norm.weight"], c.norm_eps, d_q)
        d_k, grads["attn_k_norm.weight"] = rms_norm_backward(a.k_raw, w["attn_k_norm.weight"], c.norm_eps, d_k)
    d_h = None
    for n, d in zip("qkv", (d_q, d_k, d_v), strict=True):
        d = d.reshape(len(d_x), -1)
        d_part, grads[f"attn_{n}.weight"] = linear_backward(a.h, w[f"attn_{n}.weight"], d)
        d_h = d_part if d_h is None else np.add(d_h, d_part, out=d_h)
        if c.qkv_bias:
            grads[f"attn_{n}.bias"] = d.sum(axis=0)
    d_branch, grads["attn_norm.weight"] = rms_norm_backward(a.x, w["attn_norm.weight"], c.norm_eps, d_h)
    d_x += d_branch
    return d_x, grads


def attention_backward(a, d_out, batch):  # Activations, (T, heads · d_head) -> (T, heads, d), (T, kv_heads, d) twice
    """dq, dk and dv, sequence by sequence."""
    out, d_out = a.out.reshape(a.q.shape), d_out.reshape(a.q.shape)
    q, k, v, out, d_out = by_sequence(batch, a.q, a.k, a.v, out, d_out)
    return [d.reshape(-1, *d.shape[2:]) for d in attention_gradients(q, k, v, out, a.lse, d_out)]


def by_sequence(batch, *arrays):  # (T, heads, d) each -> (batch, T/batch, heads, d) each
    """The same arrays, seen as sequences."""
    return [a.reshape(batch, -1, *a.shape[1:]) for a in arrays]
