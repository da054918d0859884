"""RoPE for contexts longer than those of training: slow the rotations down, so that far positions look like near ones.

Linear scaling divides every frequency by the same factor, and blurs near positions. Llama 3 leaves fast pairs alone
(they tell neighbours apart), divides slow ones (they have not turned once within the training context), and blends
between. The turning point is a pair's wavelength, 2π / frequency, measured against the training context.

Chen et al. 2023, arXiv:2306.15595 (linear). Grattafiori et al. 2024, arXiv:2407.21783 (Llama 3).
"""

import numpy as np

from minillm.errors import ModelError
from minillm.layers import rope_frequencies
from minillm.model.config import ModelConfig, RopeScaling


def scaled_frequencies(  # ModelConfig, (d_head/2,) or None -> (d_head/2,)
    config: ModelConfig, divisors: np.ndarray | None = None
) -> np.ndarray:
    """Compute the frequencies of RoPE for a model.

    divisors: one number per pair, where the file brings them (GGUF keeps Llama 3's as `rope_freqs.weight`); otherwise
    they follow from config.rope_scaling.
    """
    frequencies = rope_frequencies(config.d_head, config.rope_base)
    if divisors is None:
        divisors = rope_divisors(frequencies, config.rope_scaling)
    return (frequencies / divisors).astype(np.float32)


def rope_divisors(  # (d_head/2,), RopeScaling or None -> (d_head/2,)
    frequencies: np.ndarray, scaling: RopeScaling | None
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
        return 1.0 / (keep + (1.0 - keep) / scaling.factor)
    raise ModelError(f"RoPE scaling {scaling.kind!r} is not supported; linear and llama3 are.")
