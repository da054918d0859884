"""What training holds in memory, counted before anything is allocated.

Weights are the smallest part. Beside them lie a gradient for each, two moments of AdamW for each, and what backward needs of
forward: the activations of every token in every layer. In float32, with P weights of which p are trained (full: p = P; an
adapter's p are beside the P), T = batch · length tokens:

                    full       LoRA        QLoRA
    weights         4 P        4 P + 4 p   0.52 P + 4 p     + the tables' 2 or 4 bytes, + the one matrix in use: 4 d_ff d
    gradients       4 p        4 p         4 p
    moments         8 p        8 p         8 p
    activations     what each layer keeps (layer.Activations), L times; less with adapters, as what a frozen matrix was given is
                    not needed again; recomputed: an input of each layer, and one layer's (activation_bytes)
    logits          4 T V, gone before the layers go back

Gradients grow while activations are given back, so the peak is at one of a few moments: at the head, with all activations
and the logits; at the last layer; at the first, with all gradients; or in the update. LoRA saves 12 bytes a weight and at most
a third of the activations: with long texts, which make these the largest part, it is no longer half of full fine-tuning. What is
counted is arrays; the interpreter, and what BLAS keeps for itself, come on top.

Kaplan et al. 2020, arXiv:2001.08361, count as model/config.py does; Korthikanti et al. 2022, arXiv:2205.05198 (activations).
"""

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minillm.errors import TrainingError
from minillm.model.config import ModelConfig
from minillm.model.lora import adapter_parameters
from minillm.training.attention import TILE
from minillm.training.optimizer import CHUNK
from minillm.training.qlora import base_nbytes

METHODS = ("full", "lora", "qlora")
FLOAT = 4  # bytes


@dataclass(frozen=True, slots=True)
class MemoryBreakdown:
    """Bytes at the peak of a step, `when`. working: memory allocated and freed within one layer."""

    when: str
    weights: int
    moments: int
    gradients: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.moments + self.gradients + self.activations + self.working


def step_memory(
    config: ModelConfig, batch: int, length: int, method: str = "full", *, rank: int = 8,
    matrices: Sequence[str] = ("attn_q", "attn_v"), recompute: bool = False, table: str = "f16"
) -> MemoryBreakdown:
    """ModelConfig, sequences, tokens of each -> MemoryBreakdown, at the peak of a training step

    method: "full", "lora" or "qlora". rank, matrices: of the adapter (lora.py). table: how QLoRA keeps embedding and head.
    TrainingError for another method, matrix or table than there are; whether the rank fits, lora.fresh_adapter checks.
    """
    if method not in METHODS:
        raise TrainingError(f"the method must be {', '.join(METHODS)}, found {method!r}.")
    return max(moments_of(config, batch, length, method, rank, matrices, recompute, table), key=lambda m: m.total)


def moments_of(  # -> [MemoryBreakdown], of each possible peak
    c: ModelConfig, batch: int, length: int, method: str, rank: int, matrices: Sequence[str], recompute: bool, table: str
) -> list[MemoryBreakdown]:
    tokens, full, packed = batch * length, method == "full", method == "qlora"
    head = c.vocab_size * c.d_model
    trained = c.parameters() if full else adapter_parameters(c, rank, matrices)
    base = base_nbytes(c, table) if packed else FLOAT * c.parameters()
    weights, moments = base + (0 if full else FLOAT * trained), 2 * FLOAT * trained

    at_head = head if full else 0  # its gradient; the embedding's own comes last, where they are two
    at_end = 0 if c.tied else at_head
    of_layer = (trained - at_head - at_end) // c.n_layers
    unpacked = head if packed and table != "f32" else 0
    work = layer_working(c, batch, length)
    if packed:  # one matrix as floats, in the backward of the feed-forward
        work = max(work, tokens * (3 * c.d_model + 2 * c.d_ff) + c.d_model * c.d_ff)

    def at(when: str, gradients: int, activations: int, working: int) -> MemoryBreakdown:
        return MemoryBreakdown(when, weights, moments, FLOAT * gradients, activations, FLOAT * working)

    adapted = None if full else matrices
    besides = FLOAT * tokens * (c.d_model + c.d_head + recompute * c.d_model)  # the last x, RoPE's angles; what was run again
    last, first = (
        besides + activation_bytes(replace(c, n_layers=n), batch, length, adapted, recompute) for n in (c.n_layers, 1)
    )
    inputs = FLOAT * tokens * (c.n_layers + 1) * c.d_model
    return [
        at("head", at_head, inputs if recompute else last, tokens * (c.vocab_size + 2 * c.d_model) + unpacked),
        at("last layer", at_head + of_layer, last, work),
        at("first layer", trained - at_end, first, work),
        at("embedding", trained, first, tokens * c.d_model),
        at("update", trained, 0, 5 * CHUNK),
    ]


def activation_bytes(
    c: ModelConfig, batch: int, length: int, adapted: Sequence[str] | None = None, recompute: bool = False
) -> int:
    """Count the bytes of activations that the layers keep for backward, when forward has passed through all of them.

    ModelConfig, sequences, tokens of each -> bytes. What a layer keeps is layer.Activations: float32 arrays, with a row for each
    token of each sequence. An array that two names share is kept once. Embedding, head and loss do not count here.

    adapted: short names of the matrices that have an adapter ("attn_q", "ffn_up"), where all else is frozen; None: every weight
    learns. h, h_m and act are kept only where a matrix that they are multiplied by learns (Products.needs_input).

    recompute: each layer keeps its input x alone. Backward then runs one layer again, and has all of that one layer's arrays
    beside the inputs of the others; that moment is counted.
    """
    # BEGIN SOLUTION ex=16.6
    wide, narrow = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    layer = 2 * c.d_model + 2 * wide + 2 * narrow + 2 * c.d_ff + c.n_heads  # x, m; q, out; k, v; gate, up; log-sum-exp
    if c.qk_norm:
        layer += wide + narrow  # q and k from before the norm
    inputs = (c.d_model, {"attn_q", "attn_k", "attn_v"}), (c.d_model, {"ffn_gate", "ffn_up"}), (c.d_ff, {"ffn_down"})
    layer += sum(size for size, users in inputs if adapted is None or users & set(adapted))  # h, h_m, act
    a_token = (c.n_layers - 1) * c.d_model + layer if recompute else c.n_layers * layer
    return FLOAT * batch * length * a_token
    # END SOLUTION


def layer_working(c: ModelConfig, batch: int, length: int) -> int:  # -> numbers
    """Count what layer_backward holds beside activations and gradients, at the worst of four places on its way."""
    wide, narrow, tokens = c.n_heads * c.d_head, c.n_kv_heads * c.d_head, batch * length
    feed_forward = 3 * c.d_model + 2 * c.d_ff  # d_x, d_m and d_h; d_gate and d_up: there until the end
    tile = TILE * (c.n_heads // c.n_kv_heads) * (5 * length + 4 * c.d_head)  # scores and what is made of them; q, dO, dQ, dK
    return max(
        tokens * (c.d_model + 4 * c.d_ff),  # SwiGLU's backward
        tokens * (feed_forward + 2 * wide + 2 * narrow) + tile,  # that of attention
        tokens * (feed_forward + 4 * wide + 2 * narrow),  # of RoPE, and of the norms of q and k
        tokens * (feed_forward + wide + 2 * narrow + 4 * c.d_model),  # of the first norm
    )


def measured_peak(make: Callable[[], Any], step: Callable[[Any], Any]) -> int:  # () -> state, state -> anything: -> bytes
    """Measure the peak of allocated bytes while step(state) runs, state included: every array and object of Python.

    By tracemalloc, to which NumPy reports. It counts what was asked for, so two runs agree; BLAS keeps some megabytes beside.
    """
    if tracemalloc.is_tracing():
        raise TrainingError("memory is being traced already; one measurement at a time.")
    tracemalloc.start()
    try:
        state = make()
        tracemalloc.reset_peak()
        step(state)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
