"""RoPE for contexts longer than those of training: slow the rotations down, so that far positions look like near ones.

Linear scaling divides every frequency by the same factor s, and blurs near positions. Llama 3 and YaRN leave fast pairs alone
(they tell neighbours apart), divide slow ones (they have not turned once within the training context L), and blend between:

    turns of pair i = L · frequency[i] / 2π        frequency' = keep · frequency + (1 - keep) · frequency / s

Llama 3 draws the ramp `keep` over the turns, YaRN over the pair's number. And YaRN sharpens attention, which a longer context
flattens: its softmax gets a temperature, as a magnitude on both queries and keys, m = 0.1 ln s + 1. Cosine and sine carry it.

Chen et al. 2023, arXiv:2306.15595 (linear). Grattafiori et al. 2024, arXiv:2407.21783 (Llama 3). Peng et al. 2023,
arXiv:2309.00071 (YaRN: sections 3.2 and 3.4; the ramp over numbers is that of its code, of transformers and of llama.cpp).
"""

import math

import numpy as np

from minillm.errors import ModelError
from minillm.layers import rope_frequencies
from minillm.model.config import ModelConfig, RopeScaling


def scaled_frequencies(  # ModelConfig, (d_head/2,) or None -> (d_head/2,)
    config: ModelConfig, divisors: np.ndarray | None = None
) -> np.ndarray:
    """Compute the frequencies of RoPE for a model.

    divisors: one number per pair, where the file brings them (GGUF keeps Llama 3's as `rope_freqs.weight`); they come before
    what config.rope_scaling divides by.
    """
    frequencies = rope_frequencies(config.d_head, config.rope_base)
    scaled = frequencies / rope_divisors(frequencies, config.rope_scaling, config.rope_base)
    return (scaled if divisors is None else scaled / divisors).astype(np.float32)


def rope_divisors(  # (d_head/2,), RopeScaling or None, base -> (d_head/2,)
    frequencies: np.ndarray, scaling: RopeScaling | None, base: float
) -> np.ndarray:
    """Compute the divisor of each frequency."""
    if scaling is None:
        return np.ones_like(frequencies)
    if scaling.kind == "linear":
        return np.full_like(frequencies, scaling.factor)
    if scaling.kind == "llama3":
        turns = scaling.original_context * frequencies / (2 * np.pi)  # within the training context
        ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        keep = np.clip(ramp, 0.0, 1.0)  # 0: slow, divide fully; 1: fast, leave alone
    elif scaling.kind == "yarn":
        keep = yarn_ramp(len(frequencies), scaling, base)
    else:
        raise ModelError(f"RoPE scaling {scaling.kind!r} is not supported; linear, llama3 and yarn are.")
    return 1.0 / (keep + (1.0 - keep) / scaling.factor)


def yarn_ramp(pairs: int, scaling: RopeScaling, base: float) -> np.ndarray:  # -> (pairs,) float64 from 1, keep, down to 0, divide
    """Compute how much of each frequency YaRN keeps: all before the pair that turns beta_fast times, none from beta_slow on."""

    def number(turns: float) -> float:  # of the pair that turns so often: L · base^(-i/pairs) / 2π = turns, solved for i
        return pairs * math.log(scaling.original_context / (2 * math.pi * turns)) / math.log(base)

    first, last = math.floor(number(scaling.beta_fast)), math.ceil(number(scaling.beta_slow))
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    ramp = (np.arange(pairs) - first) / max(last - first, 0.001)  # one step where both are the same pair
    return 1.0 - np.clip(ramp, 0.0, 1.0)


def rope_magnitude(scaling: RopeScaling | None) -> float:
    """Compute what cosine and sine are multiplied by, so that scores grow by its square: 1 but for YaRN."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    return scaling.attention_factor if scaling.attention_factor is not None else yarn_magnitude(scaling.factor)


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """Compute YaRN's own choice, 0.1 · weight · ln factor + 1; 1 where the context is not stretched."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0
