"""Collect an importance matrix: the sum over a text of the squares of each matrix's inputs, column by column.

    sum_j = Σ over tokens x_j²          kept in float64, written in float32 (formats/imatrix.py says what it is for)

The head is left out, as llama.cpp's tool leaves it out: its type has bits enough.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy import ndarray as Array

from minillm.calibration.collect import collect
from minillm.errors import ModelError
from minillm.formats.imatrix import ImportanceMatrix
from minillm.model.transformer import Transformer


class SquareSums:
    """A visitor that sums squares. sums: {name: (d_in,) float64}; rows: {name: how many inputs were seen}."""

    def __init__(self) -> None:
        self.sums: dict[str, Array] = {}
        self.rows: dict[str, int] = {}

    def __call__(self, name: str, x: Array) -> None:  # str, (tokens, d_in)
        squares = (x.astype(np.float64) ** 2).sum(axis=0)
        if not np.isfinite(squares).all():
            raise ModelError(f"the inputs of {name!r} are not finite on this text: its weights, or the file, are damaged.")
        self.sums[name] = self.sums.get(name, 0) + squares
        self.rows[name] = self.rows.get(name, 0) + len(x)


def importance_matrix(
    transformer: Transformer, chunks: Iterable[Sequence[int] | np.ndarray], context: int, dataset: str = ""
) -> ImportanceMatrix:
    """Run a model on chunks of token ids, and sum. context: tokens of a chunk; dataset: the text's name, for the file.

    ModelError where the inputs are not finite: such a model computes nothing.
    """
    seen = SquareSums()
    count = collect(transformer, chunks, seen)
    sums = {name: sums.astype(np.float32)[None] for name, sums in seen.sums.items()}
    rows = {name: np.array([rows], np.float32) for name, rows in seen.rows.items()}
    return ImportanceMatrix(sums, rows, count, context, [dataset] if dataset else [])
