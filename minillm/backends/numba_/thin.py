"""Adapters in the kernels: thin products in the region of the wide one, so that a step with adapters is one call as well.

    y[t] = W x[t]        each core its bands of rows, as ever
    z[t] = A x[t]        for the rows t of an adapter: every core for itself
    y[t] += B z[t]       each core the same bands again

A has 8 or 16 rows: every core makes z anew in less time than the cores would wait for one another. B has as many rows as W, so
a core adds to what it has just written itself. Rows of one adapter that lie side by side go together, as a run.

    runs    (runs, 2)                          first row, and the one after the last
    thin    (layers, runs, matrices, 2, 6)     tapes (bands.py) of A and B; zeros where a matrix has none
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from minillm.backends.adapted import Adapted, adapted
from minillm.backends.numba_.bands import share, tape_at
from minillm.backends.numba_.linear import ADD, FRESH, tape

MATRICES = "q", "k", "v", "o", "gate", "up", "down"


@dataclass(slots=True)
class RoutedLayers:
    """The layers of a model in a step in which some rows have adapters. routed: [(adapters.LoadedAdapter, rows)]"""

    layers: list
    routed: list

    def __iter__(self):
        return (adapted(w, i, self.routed) for i, w in enumerate(self.layers))

    def thin(self):  # -> runs, (layers, runs, 7, 2, 6)
        """For the kernel of all layers."""
        found = [(run, tapes_of(adapter)) for adapter, rows in self.routed for run in runs_of(rows)]
        runs, thin = np.empty((len(found), 2), np.int64), np.empty((len(self.layers), len(found), len(MATRICES), 2, 6), np.int64)
        for i, (run, tapes) in enumerate(found):
            runs[i], thin[:, i] = run, tapes
        return runs, thin


def thin_of(*weights):  # matrices, some of them Adapted -> runs, (1, runs, matrices, 2, 6)
    """For a kernel of half a layer."""
    parts = [(i, part) for i, weight in enumerate(weights) if isinstance(weight, Adapted) for part in weight.parts]
    found = [(run, i, (tape(a), tape(b))) for i, (rows, a, b) in parts for run in runs_of(rows)]
    runs, thin = np.empty((len(found), 2), np.int64), np.zeros((1, len(found), len(weights), 2, 6), np.int64)
    for r, (run, i, pair) in enumerate(found):
        runs[r], thin[0, r, i] = run, pair
    return runs, thin


def tapes_of(adapter):  # LoadedAdapter -> (layers, 7, 2, 6)
    """Worked out once, and kept with the adapter: its matrices stay where they are."""
    if "tapes" not in adapter.kept:
        made = np.zeros((len(adapter.layers), len(MATRICES), 2, 6), np.int64)
        for i, pairs in enumerate(adapter.layers):
            for name, (a, b) in pairs.items():
                made[i, MATRICES.index(name)] = tape(a), tape(b)
        adapter.kept["tapes"] = made
    return adapter.kept["tapes"]


def runs_of(rows):  # a slice, or places that rise -> [(first, the one after the last)]
    if isinstance(rows, slice):
        return [(rows.start, rows.stop)]
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, cuts)]


@njit
def low_room(threads, runs, thin):  # -> (threads, numbers)
    """Where each core puts its z: room for the largest, in any layer."""
    most = 0
    for i in range(len(thin)):
        for r in range(len(runs)):
            for m in range(thin.shape[2]):
                most = max(most, (runs[r, 1] - runs[r, 0]) * 16 * thin[i, r, m, 0, 4])
    return np.empty((threads, most), np.float32)


@njit
def add_thin(part, parts, runs, thin, matrix, x, codes, scale, sums, y, low):
    """What core `part` of `parts` does of y[t] += B A x[t] for all runs of one matrix, after its share of y = W x.

    thin: that of one layer.
    """
    for r in range(len(runs)):
        a, b = tape_at(thin[r, matrix], 0), tape_at(thin[r, matrix], 1)
        if a[4]:
            first, stop = runs[r, 0], runs[r, 1]
            z = low[part, : (stop - first) * 16 * a[4]].reshape(stop - first, 16 * a[4])
            share(0, 1, FRESH, a, x[first:stop], codes, scale, sums, z)  # floats: codes are not read
            share(part, parts, ADD, b, z, codes, scale, sums, y[first:stop])
