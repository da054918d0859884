"""A layer in a step in which some rows have an adapter: which matrices have more to add, and to which rows.

    y = x Wᵀ        y[rows] += (x[rows] Aᵀ) Bᵀ        for each of parts = [(rows, A, B)]

model/adapters.py routes the rows; how it is multiplied is up to the backend.
"""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(slots=True)
class Adapted:
    """A matrix with low-rank parts to add. parts: [(rows, A, α/r B)], matrices of the backend, rows a slice or indices."""

    matrix: object
    parts: list


def wide(weight: Any) -> Any:  # a matrix of the backend, or Adapted -> the matrix
    return weight.matrix if isinstance(weight, Adapted) else weight


def adapted(w: Any, i: int, routed: Any) -> Any:  # LayerWeights, its number, [(adapter, rows)] -> LayerWeights
    """Make a layer for this step. An adapter has layers: for each {field of LayerWeights: (A, α/r B)}."""
    parts: dict[str, list] = {}
    for adapter, rows in routed:
        for field, (a, b) in adapter.layers[i].items():
            parts.setdefault(field, []).append((rows, a, b))
    return replace(w, **{field: Adapted(getattr(w, field), found) for field, found in parts.items()})
