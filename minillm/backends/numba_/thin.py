"""Adapters in the kernels: thin products in the region of the wide one, so that a step with adapters is one call as well.

    y[t] = W x[t]        each task its bands of rows, as ever
    z[t] = A x[t]        for the rows t of an adapter: every task for itself
    y[t] += B z[t]       each task the same bands again

A has 8 or 16 rows: every task makes z anew in less time than the cores would wait for one another. B has as many rows as W, so
a task adds to what it has just computed itself. Rows of one adapter that lie side by side go together, as a run.

    runs     (runs, 2)                          first row, and the one after the last
    handles    (layers, runs, matrices, 2, 6)     bands.MatrixHandle of A and of B; zeros where a matrix has none
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from minillm.backends.adapted import Adapted, adapted
from minillm.backends.numba_.bands import Operand, bands_times, bands_times_all, handle_at
from minillm.backends.numba_.handles import handle

MATRICES = "q", "k", "v", "o", "gate", "up", "down"
Q, K, V, O, GATE = range(5)  # where they stand in a table of handles; up and down follow gate


class Routes(NamedTuple):
    """The rows that go through each low-rank matrix, as a kernel sees them."""

    runs: np.ndarray
    handles: np.ndarray


class Thin(NamedTuple):
    """The same for one layer, and where a thread puts its z."""

    runs: np.ndarray
    handles: np.ndarray  # (runs, matrices, 2, 6)
    low: np.ndarray  # room for z, of one thread


@dataclass(slots=True)
class RoutedLayers:
    """The layers of a model in a step in which some rows have adapters. routed: [(adapters.LoadedAdapter, rows)]"""

    layers: list
    routed: list

    def __iter__(self):
        return (adapted(w, i, self.routed) for i, w in enumerate(self.layers))

    def routes(self):  # -> Routes
        """Make the routes for the kernel of all layers."""
        found = [(run, handles_of(adapter)) for adapter, rows in self.routed for run in runs_of(rows)]
        runs = np.empty((len(found), 2), np.int64)
        handles = np.empty((len(self.layers), len(found), len(MATRICES), 2, 6), np.int64)
        for i, (run, own) in enumerate(found):
            runs[i], handles[:, i] = run, own
        return Routes(runs, handles)


def routes_of(*weights):  # matrices, some of them Adapted -> Routes
    """Make the routes for a kernel of half a layer."""
    parts = [(i, part) for i, weight in enumerate(weights) if isinstance(weight, Adapted) for part in weight.parts]
    found = [(run, i, (handle(a), handle(b))) for i, (rows, a, b) in parts for run in runs_of(rows)]
    runs, handles = np.empty((len(found), 2), np.int64), np.zeros((1, len(found), len(weights), 2, 6), np.int64)
    for r, (run, i, pair) in enumerate(found):
        runs[r], handles[0, r, i] = run, pair
    return Routes(runs, handles)


def handles_of(adapter):  # LoadedAdapter -> (layers, 7, 2, 6)
    """Make the handles of an adapter, once, and keep them with it: its matrices stay where they are."""
    if "handles" not in adapter.kept:
        made = np.zeros((len(adapter.layers), len(MATRICES), 2, 6), np.int64)
        for i, pairs in enumerate(adapter.layers):
            for name, (a, b) in pairs.items():
                made[i, MATRICES.index(name)] = handle(a), handle(b)
        adapter.kept["handles"] = made
    return adapter.kept["handles"]


def runs_of(rows):  # a slice, or places that rise -> [(first, the one after the last)]
    if isinstance(rows, slice):
        return [(rows.start, rows.stop)]
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, cuts)]


@njit
def low_room(routes):  # -> (numbers,)
    """Make room for the largest z, in any layer."""
    runs, handles, most = routes.runs, routes.handles, 0
    for i in range(len(handles)):
        for r in range(len(runs)):
            for m in range(handles.shape[2]):
                most = max(most, (runs[r, 1] - runs[r, 0]) * 16 * handle_at(handles[i, r, m], 0).bands)
    return np.empty(most, np.float32)


@njit
def product(first, last, add, handles, thin, matrix, h, y, row):
    """Compute bands first … last - 1 of a matrix: y[t] = (add · y[t]) + W h[t], and += B A h[t] for its runs.

    row: where the matrix's rows begin in y.
    """
    to, stride = y.ctypes.data + 4 * row, y.shape[1]
    bands_times_all(first, last, add, handle_at(handles, matrix), h, to, stride)
    for r in range(len(thin.runs)):
        a, b = handle_at(thin.handles[r, matrix], 0), handle_at(thin.handles[r, matrix], 1)
        if a.bands:
            token, tokens, rank = thin.runs[r, 0], thin.runs[r, 1] - thin.runs[r, 0], 16 * a.bands
            z = thin.low[: tokens * rank].reshape(tokens, rank)
            bands_times(0, a.bands, 0, a, h, token, tokens, z.ctypes.data, rank)
            bands_times(
                first, last, 1, b, Operand(z, h.codes, h.scale, h.sums, h.parts), 0, tokens, to + 4 * stride * token, stride
            )
