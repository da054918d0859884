"""The transformer: one forward pass for everything that a server does.

A step works on *segments*. A segment is one sequence's share of the step: some new tokens, where they stand, the cache
that holds what came before, and whose logits are wanted. Prefill is a segment of many tokens, decode a segment of one,
a chunk of a long prompt one of some, the check of a draft one of γ + 1; a batch is a list of them. The matrix products
run over all tokens of all segments at once, which is why batching pays; only attention looks at each sequence alone.

    tokens ─ embed ─┬─ norm ─ q,k,v ─ rope ─ cache ─ attention ─ o ─ + ─┬─ norm ─ gate,up ─ swiglu ─ down ─ + ─ … ─ norm ─ head
                    └────────────────────────────────────────────────┘  └───────────────────────────────────┘
                                       look around                                   think alone   (n_layers times)
"""

import copy
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from minillm.backends.ops import Ops
from minillm.cache.kinds import check_kv, new_cache
from minillm.cache.protocol import Array, KVCache
from minillm.errors import MiniLLMError, RequestError
from minillm.model.adapters import LoadedAdapter, routes, with_adapters, with_rows_on_device
from minillm.model.config import ModelConfig
from minillm.model.rope_scaling import rope_magnitude, scaled_frequencies


@dataclass(slots=True)
class Segment:
    """One sequence's share of a step.

    tokens: (n,) new token ids, n at least 1. position: that of the first one, equal to what the cache holds.
    logits: "last" for the last new position, "all" for each, "none". adapter: adapters.LoadedAdapter of this sequence.
    """

    tokens: list[int] | np.ndarray
    position: int
    cache: KVCache
    logits: str = "last"
    adapter: LoadedAdapter | None = None

    @property
    def rows(self) -> int:
        """Count of the wanted rows of logits."""
        return {"all": len(self.tokens), "last": 1, "none": 0}[self.logits]


class Transformer:
    """A model ready to run: configuration, weights, and the operations `ops` of the backend that made the weights.

    kv: what new caches keep keys and values in, by name (cache/kinds.py): float32, or another with fewer bytes and a rounding.
    """

    def __init__(self, config: ModelConfig, weights: Any, ops: Ops, kv: str = "float32") -> None:  # weights.Weights
        self.config = config
        self.weights = weights
        weights.layers = ops.prepare_layers(weights.layers)
        self.ops = ops
        self.kv = check_kv(kv, config.d_head)
        divisors = weights.rope_divisors
        frequencies = scaled_frequencies(config, None if divisors is None else ops.download(divisors))
        (self.frequencies,) = ops.upload([frequencies])
        self.rope_magnitude = rope_magnitude(config.rope_scaling)

    def with_kv(self, kv: str) -> "Transformer":
        """Make a model with the same weights whose new caches keep keys and values in something else."""
        other = copy.copy(self)
        other.kv = check_kv(kv, self.config.d_head)
        return other

    def new_cache(self, tokens: int = 0, layers: int | None = None) -> KVCache:
        """Make an empty KV cache of this model's shape, with room for so many tokens, where that is known."""
        cache = new_cache(self.config, self.kv, self.ops, layers)
        cache.make_room(min(tokens, self.config.context_length))
        return cache

    def forward(self, segments: list[Segment]) -> list[Array]:  # (positions, vocab) float32 each
        """Run all segments through the model once; extend their caches; return one array of logits per segment."""
        return split_by_segment(self.logits(segments), segments)

    def logits(self, segments: list[Segment]) -> Array:  # (positions wanted of all, vocab) float32
        """Run the forward pass, with the logits in one array, segment after segment."""
        x, _, rows = self.all_layers(segments)
        return self.head_of(x, rows)

    def hidden(self, segments: list[Segment]) -> tuple[Array, list[slice]]:  # (tokens, d_model)
        """Run the forward pass without the head: each new token's vector after the last layer, and the slice of each segment."""
        return self.all_layers(segments)[:2]

    def head(self, x: Array, segments: list[Segment], spans: list[slice]) -> list[Array]:  # (positions, vocab) each
        """Compute the wanted logits from what `hidden` returned."""
        (rows,) = self.ops.upload([logit_rows(segments, spans)])
        return split_by_segment(self.head_of(x, rows), segments)

    def all_layers(self, segments: list[Segment]) -> tuple[Array, list[slice], Array]:  # (tokens, d_model), (n,) rows of logits
        """Run all layers, without the head. All host data of a step (tokens, positions, slots, tables, rows) is one upload."""
        for segment in segments:
            self.check(segment)
        spans = [slice(a, b) for a, b in pairwise(accumulate((len(s.tokens) for s in segments), initial=0))]
        tokens = np.concatenate([s.tokens for s in segments])
        positions = np.concatenate([np.arange(s.position, s.position + len(s.tokens)) for s in segments])
        step, layers = self.ops.AttentionStep(self.ops, segments, spans), self.weights.layers
        routed, gathered = routes(segments, spans)
        numbers = [tokens, positions, logit_rows(segments, spans), *gathered, *step.indices()]
        tokens, positions, rows, *rest = self.ops.upload(numbers)
        step.place(rest[len(gathered) :])
        if routed:
            step.ops, layers = with_adapters(self.ops, layers, with_rows_on_device(routed, rest))

        x = self.ops.embed(tokens, self.weights.embedding)
        angles = self.ops.rope_angles(positions, self.frequencies, self.rope_magnitude)
        return step.ops.run_layers(x, layers, self.config, angles, step), spans, rows

    def head_of(self, x: Array, rows: Array) -> Array:  # (tokens, d_model), (n,) -> (n, vocab)
        """Apply the head to the wanted rows only: it is a fifth of SmolLM2's arithmetic, and prefill needs it once."""
        if len(rows) == 0:
            return self.ops.empty((0, self.config.vocab_size))
        h = self.ops.rms_norm(x[rows], self.weights.norm, self.config.norm_eps)
        return self.ops.linear(h, self.weights.head)

    def check(self, segment: Segment) -> None:
        """Check a segment: it needs tokens, ids within the vocabulary, and no gap to the cache."""
        tokens = segment.tokens = np.asarray(segment.tokens, np.int64)
        vocab, context = self.config.vocab_size, self.config.context_length
        if tokens.ndim != 1 or len(tokens) == 0:
            raise RequestError(f"a segment needs at least one token, found an array of shape {tokens.shape}.")
        if tokens.min() < 0 or tokens.max() >= vocab:
            raise RequestError(f"token ids must be 0 to {vocab - 1:,}, found {tokens.min():,} to {tokens.max():,}.")
        if segment.position != segment.cache.length:
            raise MiniLLMError(f"segment starts at position {segment.position}, its cache holds {segment.cache.length} tokens.")
        if segment.position + len(tokens) > context:
            raise RequestError(f"{segment.position + len(tokens):,} tokens do not fit the model's context of {context:,}.")
        if segment.logits not in ("last", "all", "none"):
            raise MiniLLMError(f"logits of a segment are 'last', 'all' or 'none', found {segment.logits!r}.")


def logit_rows(segments: list[Segment], spans: list[slice]) -> np.ndarray:  # (n,) rows of the step whose logits are wanted
    return np.concatenate([np.arange(span.stop - s.rows, span.stop) for s, span in zip(segments, spans, strict=True)])


def split_by_segment(logits: Array, segments: list[Segment]) -> list[Array]:  # (n, vocab) -> (positions, vocab) each
    bounds = accumulate((s.rows for s in segments), initial=0)
    return [logits[a:b] for a, b in pairwise(bounds)]
