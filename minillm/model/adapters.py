"""Several adapters in one batch: one model for all rows, and for each row the thin matrices of its own request.

An adapter that is merged costs nothing, but then the model answers as this adapter does, to all users. Kept apart, an adapter
is a few megabytes beside gigabytes, and a server holds many. The large product stays one, over all rows, so W is read once for
the whole batch; then each adapter adds to the rows that asked for it:

    y = x Wᵀ                                      rows: base, moral, base, rhyme, moral
    y[1, 4] += (x[1, 4] Aᵀ) (α/r B)ᵀ              A, B of moral
    y[3]    += (x[3]    Aᵀ) (α/r B)ᵀ              A, B of rhyme

Numba has the thin products in its kernels (backends/numba_/thin.py), NumPy calls them adapter by adapter, a GPU gathers them. A
step without an adapter does not come here. Punica: Chen et al. 2023, arXiv:2310.18547. S-LoRA: Sheng et al. 2023,
arXiv:2311.03285.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm import layers
from minillm.backends.adapted import Adapted, adapted
from minillm.backends.ops import Ops
from minillm.formats.blocks import BLOCK_TYPES
from minillm.model.config import ModelConfig
from minillm.model.weights import LayerWeights, StoredTensor

FIELDS = {  # GGUF's name of a matrix: its name in LayerWeights
    "attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o", "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down",
}  # fmt: skip

REGISTER = 16  # numbers side by side

Routed = Sequence[tuple["LoadedAdapter", Any]]  # adapters, and the rows of the step that are theirs: an array or a slice


@dataclass(frozen=True, eq=False, slots=True)
class LoadedAdapter:
    """An adapter as a backend takes it. layers: for each {field of LayerWeights: (A, α/r B)}, matrices of the backend.

    kept: what a backend works out once.
    """

    layers: list
    kept: dict = field(default_factory=dict)


def prepare(adapter: Any, n_layers: int, ops: Ops) -> LoadedAdapter:  # training.lora.Adapter, int, backend -> LoadedAdapter
    """Load both halves into the backend, with the scale in the second; the rank is padded with zeros to whole registers."""
    made = LoadedAdapter([{} for _ in range(n_layers)])
    for name, (a, b) in adapter.pairs().items():
        _, layer, matrix, _ = name.split(".")
        missing = -len(a) % REGISTER
        pair = np.pad(a, ((0, missing), (0, 0))), np.pad(b * np.float32(adapter.alpha / len(a)), ((0, 0), (0, missing)))
        made.layers[int(layer)][FIELDS[matrix]] = tuple(ops.load_matrix(as_stored(half)) for half in pair)
    return made


def as_stored(array: np.ndarray) -> StoredTensor:
    array = np.ascontiguousarray(array, np.float32)
    return StoredTensor(array.view(np.uint8).reshape(-1), BLOCK_TYPES["F32"], array.shape)


def routes(  # [Segment], [slice] -> [(LoadedAdapter, rows)], [rows that are to be uploaded]
    segments: Sequence[Any], spans: Sequence[slice]
) -> tuple[Routed, list[np.ndarray]]:
    """Find the rows of the step that belong to each adapter."""
    rows: dict[LoadedAdapter, list[np.ndarray]] = {}
    for segment, span in zip(segments, spans, strict=True):
        if segment.adapter is not None:
            rows.setdefault(segment.adapter, []).append(np.arange(span.start, span.stop))
    routed = [(adapter, as_slice(np.concatenate(parts))) for adapter, parts in rows.items()]
    return routed, [rows for _, rows in routed if not isinstance(rows, slice)]


def with_rows_on_device(  # [(LoadedAdapter, rows)], [rows] -> the same with rows on the device
    routed: Routed, uploaded: list[Array]
) -> Routed:
    arrived = iter(uploaded)
    return [(adapter, rows if isinstance(rows, slice) else next(arrived)) for adapter, rows in routed]


def as_slice(  # (n,), rising -> the same as a slice, where there is no gap: rows are looked at then, and not gathered
    rows: np.ndarray
) -> Any:
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last + 1 - first == len(rows) else rows


def with_adapters(  # Ops, [LayerWeights], routes -> Ops, [LayerWeights]
    ops: Ops, weights: list[LayerWeights], routed: Routed
) -> tuple[Ops, list[LayerWeights]]:
    """Route rows through adapters: layers whose matrices know their low-rank parts, and operations that add them."""
    if ops.routed_layers is not None:
        return ops, ops.routed_layers(weights, routed)

    def linear(x: Array, weight: Any, bias: Array | None = None) -> Array:
        if not isinstance(weight, Adapted):
            return ops.linear(x, weight, bias)
        y = ops.linear(x, weight.matrix, bias)
        for rows, a, b in weight.parts:
            y[rows] += ops.linear(ops.linear(x[rows], a), b)
        return y

    def attention_inputs(x: Array, w: Any, c: ModelConfig, cos: Array, sin: Array) -> tuple[Array, Array, Array]:
        own = {"linear": linear} if any(isinstance(weight, Adapted) for weight in (w.q, w.k, w.v)) else {}
        return ops.attention_inputs(x, w, c, cos, sin, **own)

    def add_linear(x: Array, h: Array, weight: Any) -> Array:
        return x + linear(h, weight) if isinstance(weight, Adapted) else ops.add_linear(x, h, weight)

    def add_feed_forward(x: Array, w: Any, c: ModelConfig) -> Array:
        own = {"linear": linear} if any(isinstance(weight, Adapted) for weight in (w.gate, w.up, w.down)) else {}
        return ops.add_feed_forward(x, w, c, **own)

    own: dict[str, Any] = {"linear": linear, "attention_inputs": attention_inputs, "add_linear": add_linear}
    own |= {"add_feed_forward": add_feed_forward, "run_layers": layers.run_layers}
    return replace(ops, **own), [adapted(w, i, routed) for i, w in enumerate(weights)]
