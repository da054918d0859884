"""The transformer: one forward pass for everything that a server does.

A step works on *segments*. A segment is one sequence's share of the step: some new tokens, where they stand, the cache
that holds what came before, and whose logits are wanted. Prefill is a segment of many tokens, decode a segment of one,
a chunk of a long prompt one of some, the check of a draft one of γ + 1; a batch is a list of them. The matrix products
run over all tokens of all segments at once, which is why batching pays; only attention looks at each sequence alone.

    tokens ─ embed ─┬─ norm ─ q,k,v ─ rope ─ cache ─ attention ─ o ─ + ─┬─ norm ─ gate,up ─ swiglu ─ down ─ + ─ … ─ norm ─ head
                    └────────────────────────────────────────────────┘  └───────────────────────────────────┘
                                       look around                                   think alone   (n_layers times)
"""

from dataclasses import dataclass

import numpy as np

from minillm.cache.contiguous import ContiguousCache
from minillm.errors import MiniLLMError, RequestError
from minillm.model.adapters import LoadedAdapter, routes, with_adapters
from minillm.model.rope_scaling import scaled_frequencies


@dataclass(slots=True)
class Segment:
    """One sequence's share of a step.

    tokens: (n,) new token ids, n at least 1. position: that of the first one, equal to what the cache holds.
    logits: "last" for the last new position, "all" for each, "none". adapter: adapters.LoadedAdapter of this sequence.
    """

    tokens: np.ndarray
    position: int
    cache: ContiguousCache
    logits: str = "last"
    adapter: LoadedAdapter | None = None


class Transformer:
    """A model ready to run: configuration, weights, and the backend module `ops` that made the weights.

    kv_dtype: what new caches keep keys and values in: float32, or float16 for half the bytes and a rounding.
    """

    def __init__(self, config, weights, ops, kv_dtype=np.float32):
        self.config = config
        self.weights = weights
        weights.layers = ops.prepare_layers(weights.layers)
        self.ops = ops
        self.kv_dtype = np.dtype(kv_dtype)
        self.frequencies = scaled_frequencies(config, weights.rope_divisors)

    def new_cache(self, tokens=0):
        """An empty KV cache of this model's shape, with room for so many tokens, where that is known, before it must grow."""
        c = self.config
        cache = ContiguousCache(c.n_layers, c.n_kv_heads, c.d_head, c.context_length, self.kv_dtype)
        cache.make_room(min(tokens, c.context_length))
        return cache

    def forward(self, segments):  # [Segment] -> [(positions, vocab) float32]
        """Run all segments through the model once; extend their caches; return one array of logits per segment."""
        for segment in segments:
            self.check(segment)
        bounds = np.cumsum([0] + [len(s.tokens) for s in segments])
        spans = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        tokens = np.concatenate([s.tokens for s in segments])
        positions = np.concatenate([np.arange(s.position, s.position + len(s.tokens)) for s in segments])

        x = self.ops.embed(tokens, self.weights.embedding)
        ops, layers = self.ops, self.weights.layers
        if routed := routes(segments, spans):
            ops, layers = with_adapters(ops, layers, routed)
        step = ops.AttentionStep(ops, segments, spans)
        angles = ops.rope_angles(positions, self.frequencies)
        x = ops.run_layers(x, layers, self.config, angles, step)
        return self.head(x, segments, spans)

    def head(self, x, segments, spans):  # -> [(positions, vocab)]
        """Logits where they are wanted: the head is a fifth of SmolLM2's arithmetic, and prefill needs it once."""
        first_wanted = {"all": lambda s: s.start, "last": lambda s: s.stop - 1, "none": lambda s: s.stop}
        wanted = [np.arange(first_wanted[s.logits](span), span.stop) for s, span in zip(segments, spans, strict=True)]
        rows = np.concatenate(wanted)
        if len(rows) == 0:
            return [np.empty((0, self.config.vocab_size), np.float32) for _ in segments]
        h = self.ops.rms_norm(x[rows], self.weights.norm, self.config.norm_eps)
        logits = self.ops.linear(h, self.weights.head)
        return np.split(logits, np.cumsum([len(w) for w in wanted])[:-1])

    def check(self, segment):
        """Refuse what would silently compute nonsense: no tokens, ids outside the vocabulary, a gap to the cache."""
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
