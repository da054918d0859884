"""An adapter as the model knows it: the thin matrices that LoRA learnt, and whether they fit a model.

    W + ΔW,   ΔW = (α/r) B A        A: (r, d_in)   B: (d_out, r)        names of arrays as in llama.cpp: NAME.lora_a, NAME.lora_b

How they are learnt, and merged into a base, is in training/lora.py; how they are read from files in adapter_files.py; how
many of them run beside one base in one batch in adapters.py. Hu et al. 2021, arXiv:2106.09685.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from minillm.errors import ModelError, TrainingError
from minillm.model.config import ModelConfig
from minillm.model.random_model import tensor_shapes

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
A, B = ".lora_a", ".lora_b"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter. weights: {"blk.0.attn_q.weight.lora_a": (r, d_in), "….lora_b": (d_out, r), …}; alpha: α."""

    weights: dict
    alpha: float

    def pairs(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:  # -> {name of the matrix: (A, B)}
        """List the pairs A, B by the name of the matrix that they adapt."""
        return {n.removesuffix(A): (a, self.weights[n.removesuffix(A) + B]) for n, a in self.weights.items() if n.endswith(A)}


def delta(a: np.ndarray, b: np.ndarray, alpha: float) -> np.ndarray:  # (r, d_in), (d_out, r), float -> (d_out, d_in)
    """Compute ΔW = (α/r) B A, the update of a matrix."""
    return (alpha / len(a)) * (b @ a)


def adapted_shapes(config: ModelConfig, matrices: Sequence[str]) -> dict[str, tuple[int, ...]]:  # -> {name: (d_out, d_in)}
    """List the shapes of the chosen matrices of every layer."""
    unknown = [m for m in matrices if m not in MATRICES]
    if unknown or not matrices:
        raise TrainingError(f"adapters go on {', '.join(MATRICES)}, found {', '.join(map(repr, unknown)) or 'none of them'}.")
    chosen = {f"blk.{i}.{matrix}.weight" for i in range(config.n_layers) for matrix in matrices}
    return {name: shape for name, shape in tensor_shapes(config).items() if name in chosen}


def adapter_parameters(config: ModelConfig, rank: int, matrices: Sequence[str] = ("attn_q", "attn_v")) -> int:
    """Count the trained parameters: r (d_in + d_out) a matrix."""
    return sum(rank * (d_out + d_in) for d_out, d_in in adapted_shapes(config, matrices).values())


def check_adapter(config: ModelConfig, adapter: Adapter, what: str) -> None:  # raises ModelError, which opens with `what`
    """Check an adapter for this model: known matrices, whole pairs, fitting shapes, finite numbers."""
    check_shapes(config, {name: array.shape for name, array in adapter.weights.items()}, adapter.alpha, what)
    check_numbers(adapter.weights, what)


def check_shapes(  # ModelConfig, {name: shape}, float
    config: ModelConfig, found: Mapping[str, tuple[int, ...]], alpha: float, what: object
) -> None:
    """Check all that can be known without reading a number."""
    shapes = adapted_shapes(config, MATRICES)
    if not found:
        raise ModelError(f"{what}: an adapter needs at least one pair of matrices, found none.")
    if isinstance(alpha, bool) or not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
        raise ModelError(f"{what}: alpha must be a number above 0, found {str(alpha)[:40]!r}.")
    for name, shape in found.items():
        matrix, side = name[: -len(A)], name[-len(A) :]
        other = matrix + (B if side == A else A)
        if side not in (A, B) or matrix not in shapes:
            known = f"adapters go on {', '.join(MATRICES)} of {config.n_layers:,} layers"
            raise ModelError(f"{what}: {name!r} belongs to nothing in {config.name}; {known}.")
        if other not in found:
            raise ModelError(f"{what}: {name!r} is there, its other half {other!r} is missing.")
        (d_out, d_in), of_a = shapes[matrix], found[matrix + A]
        rank, most = of_a[0] if of_a else 0, min(d_out, d_in)
        right = (rank, d_in) if side == A else (d_out, rank)
        if tuple(shape) != right:
            raise ModelError(f"{what}: {name!r} must have shape {right}, found {tuple(shape)}.")
        if not 1 <= rank <= most:
            raise ModelError(f"{what}: the rank of {name!r} must be 1 to {most:,}, that of the matrix, found {rank:,}.")


def check_numbers(weights: dict[str, np.ndarray], what: object) -> None:
    """Check that all numbers are finite."""
    for name, array in weights.items():
        if bad := int(np.count_nonzero(~np.isfinite(array))):
            raise ModelError(f"{what}: {name!r} has {bad:,} values that are not finite.")
