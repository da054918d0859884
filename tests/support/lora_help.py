"""Adapters for tests: both halves random, so that the adapter changes something."""

import numpy as np

from minillm.model.lora import MATRICES, Adapter
from minillm.training.lora import fresh_adapter


def random_adapter(config, rank=2, alpha=3.0, matrices=MATRICES, seed=0, strength=1.0, dtype=np.float32):
    """fresh_adapter with a B that is not zero. strength: the deviation of ΔW's part of the output, about, where x is of 1."""
    made = fresh_adapter(config, rank, alpha, matrices, seed)
    rng = np.random.default_rng(seed + 1)
    deviation = strength * rank**0.5 / alpha
    return Adapter(
        {
            name: (rng.standard_normal(w.shape) * deviation if name.endswith("lora_b") else w).astype(dtype)
            for name, w in made.weights.items()
        },
        alpha,
    )
