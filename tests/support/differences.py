"""Gradients against central differences of the loss, (L(w + h s) - L(w - h s)) / 2h = s · gradient, tensor by tensor.

s is a random direction of length 1, which meets all entries at once: four of them say whether a gradient is right. Each entry
by itself says where it is wrong, and takes a hundred times as long.
"""

import numpy as np
import pytest

H, DIRECTIONS, TOLERANCE = 1e-5, 4, 1e-6
EACH = pytest.mark.parametrize("each", [False, pytest.param(True, marks=pytest.mark.slow, id="each entry")])


def steps_of(shape, each, rng):  # -> directions of length 1, of this shape
    if each:
        yield from np.eye(int(np.prod(shape))).reshape(-1, *shape)
        return
    for _ in range(DIRECTIONS):
        step = rng.standard_normal(shape)
        yield step / np.linalg.norm(step)


def check_gradients(loss, weights, found, each):
    """Assert that found, {name: array}, is the gradient of loss() at weights, {name: float64 array}, which loss reads."""
    rng = np.random.default_rng(0)
    for name, w in weights.items():
        before, right, ours = w.copy(), [], []
        for step in steps_of(w.shape, each, rng):
            w[...] = before + H * step
            up = loss()
            w[...] = before - H * step
            right.append((up - loss()) / (2 * H))
            ours.append((found[name] * step).sum())
        w[...] = before
        error = np.linalg.norm(np.subtract(ours, right)) / max(np.linalg.norm(right), 1e-3)
        assert error < TOLERANCE, f"{name}: relative error {error:.3g}"
