"""Weights used where they lie: the NumPy backend, but a matrix stays the bytes of its file, decoded when it is multiplied.

So a model takes no memory of its own: the pages of the mapped file are those of the page cache, which every process that maps
the file shares, and which the system may drop and read again. The price is time, since each step decodes every weight. So
llama.cpp holds a model whose types it can multiply as they are stored; here it is a measuring rod for `minillm bench loading`.

    y = x Wᵀ, a thousand rows of W at a time:     decode rows ─▶ multiply ─▶ forget
"""

from dataclasses import replace
from typing import Any

import numpy as np

from minillm.backends import get_backend
from minillm.backends.ops import Ops
from minillm.formats.blocks import dequantize

ROWS = 1024  # decoded at a time


class Stored:
    """A matrix (rows, columns) as a file stores it. As weight of layers.linear and table of layers.embed it acts like one."""

    __array_ufunc__ = None  # x @ Stored is left to __rmatmul__

    def __init__(self, raw: np.ndarray, type: Any, shape: tuple[int, int]) -> None:
        self.raw, self.type, self.shape = raw.reshape(shape[0], -1), type, shape

    @property
    def T(self) -> "Stored":
        """It is only ever multiplied from the right, transposed."""
        return self

    def rows(self, raw: np.ndarray) -> np.ndarray:  # (n, bytes of a row) uint8 -> (n, columns) float32
        return dequantize(np.ascontiguousarray(raw).reshape(-1), self.type, (len(raw), self.shape[1]))

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:  # (n,) int -> (n, columns) float32
        return self.rows(self.raw[rows])

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:  # (tokens, columns) -> (tokens, rows)
        y = np.empty((len(x), self.shape[0]), np.float32)
        for start in range(0, self.shape[0], ROWS):
            part = slice(start, min(start + ROWS, self.shape[0]))
            np.matmul(x, self.rows(self.raw[part]).T, out=y[:, part])
        return y


def in_place(copied: bool = False) -> Ops:
    """Make the backend. copied: the bytes are read into memory first, and are the process's own."""
    numpy = get_backend("numpy")

    def load_matrix(tensor: Any) -> Any:
        if len(tensor.shape) != 2:
            return numpy.load_matrix(tensor)
        return Stored(tensor.raw.copy() if copied else tensor.raw, tensor.type, tensor.shape)

    return replace(numpy, name="in place", load_matrix=load_matrix)
