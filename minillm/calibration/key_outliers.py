"""Outlier channels of keys: how large a model's own are, and the same model with larger ones.

    score = q · k = Σ (q_c / s) (s · k_c)            a channel of the keys s times as large, the same channel of the queries s
                                                     times smaller: every score, and so every logit, is as it was

RoPE turns two components into each other, so both of a pair get the same s. What rounds keys with a scale for each token now has
a step that is s times as wide; what has a scale for each channel (KIVI) has not, and what turns the outlier into all channels
(rot4) has one that is wider by less.

Outlier channels of real keys: Liu et al. 2024, arXiv:2402.02750 (KIVI), figure 2.
"""

from dataclasses import replace

import numpy as np
from numpy import ndarray as Array

from minillm.errors import ModelError
from minillm.model.transformer import Transformer


def with_key_outliers(transformer: Transformer, times: float = 20, pairs: int = 1, seed: int = 0) -> Transformer:
    """Make a model that computes the same, and in whose keys a few pairs of channels of each head are so many times as large.

    ModelError for a model whose weights are no arrays (packed by a backend), or whose keys are normed after the projection.
    """
    config, rng, layers = transformer.config, np.random.default_rng(seed), []
    if config.qk_norm or not isinstance(transformer.weights.layers[0].k, np.ndarray):
        raise ModelError("outliers are put into keys of a model in float32 (backend numpy) without a norm of queries and keys.")
    if not (0 < times < np.inf and 0 < pairs <= config.d_head // 2):
        raise ModelError(f"expected a factor above 0 and 1 to {config.d_head // 2} pairs, found {times} and {pairs}.")
    for w in transformer.weights.layers:
        scales = np.stack([one_head(rng, config.d_head, times, pairs, config.rope_interleaved) for _ in range(config.n_kv_heads)])
        keys, queries = scales.ravel(), 1 / np.repeat(scales, config.n_heads // config.n_kv_heads, axis=0).ravel()
        changed = {"k": w.k * keys[:, None], "q": w.q * queries[:, None]}  # type: ignore[operator]
        for name, by in (("k_bias", keys), ("q_bias", queries)):
            if (bias := getattr(w, name)) is not None:
                changed[name] = bias * by
        layers.append(replace(w, **changed))
    return Transformer(config, replace(transformer.weights, layers=layers), transformer.ops, transformer.kv)


def one_head(rng: np.random.Generator, d: int, times: float, pairs: int, interleaved: bool) -> Array:  # -> (d,) float32
    """Draw the pairs of a head that get larger."""
    scales, chosen = np.ones(d, np.float32), rng.choice(d // 2, pairs, replace=False)
    for first, second in ((2 * chosen, 2 * chosen + 1),) if interleaved else ((chosen, chosen + d // 2),):
        scales[first] = scales[second] = times
    return scales


def largest_channel(x: Array) -> float:  # (tokens, heads, d)
    """Compute how many times the mean magnitude of a head its largest channel has: 1 where all are alike. The mean over heads."""
    channels = np.abs(x).mean(axis=0)
    return float((channels.max(axis=1) / channels.mean(axis=1)).mean())
