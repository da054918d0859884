"""Percentiles with confidence intervals, from the bootstrap: how far off might the number be, with other requests?

The measurement is repeated in thought: as many requests are drawn from those measured, with repetition, and the number is
computed anew. The interval is the middle 95% of a thousand such repetitions. All values of a request (its gaps between
tokens) are drawn together, since they are not independent: a slow step delays many.

The bootstrap cannot see what never happened. A p99 of 50 requests is their maximum, and so is the end of its interval.

Efron, 1979, doi:10.1214/aos/1176344552.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 95, 99)
MOST_DRAWN = 50_000_000  # values in all resamples together: of half a million gaps or more there are a hundred resamples


def bootstrap(  # [[value]] -> {name: number or (low, high)}
    groups: Sequence[Sequence[float]], resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> dict[str, Any]:
    """Compute mean and percentiles of all values, each with its interval `NAME_ci`. A group is one request's values.

    Percentiles are NumPy's: on straight lines between neighbours. A resample counts how often each group was drawn, so
    values are sorted once, and a percentile of the resample is a place in the running sum of the counts.
    """
    groups = [g for g in groups if len(g)]
    if not groups:
        return {"count": 0}
    values = np.concatenate([np.asarray(g, np.float64) for g in groups])
    owner = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    order = np.argsort(values, kind="stable")
    values, owner = values[order], owner[order]
    rng, resamples = np.random.default_rng(seed), min(resamples, max(100, MOST_DRAWN // len(values)))
    drawn = [statistics(values, np.ones(len(values), np.int64))]
    for _ in range(resamples if len(groups) > 1 else 0):
        times = np.bincount(rng.integers(len(groups), size=len(groups)), minlength=len(groups))
        drawn.append(statistics(values, times[owner]))
    names = ("mean", *(f"p{p}" for p in PERCENTILES))
    found: dict[str, Any] = {"count": len(values), "min": float(values[0]), "max": float(values[-1])}
    tail = (1 - confidence) / 2
    for name, first, column in zip(names, drawn[0], np.array(drawn[1:]).T if drawn[1:] else [None] * len(names), strict=True):
        found[name] = float(first)  # of one request alone there is no interval
        found[f"{name}_ci"] = None if column is None else tuple(np.quantile(column, (tail, 1 - tail)).tolist())
    return found


def statistics(  # sorted (n,), how often each counts (n,) -> [mean, percentiles]
    values: np.ndarray, times: np.ndarray
) -> list[float]:
    """Compute mean and percentiles of np.repeat(values, times), without making it."""
    upto = np.cumsum(times)
    place = (upto[-1] - 1) * np.array(PERCENTILES) / 100
    below = np.floor(place).astype(np.int64)
    low, high = (values[np.searchsorted(upto, at, side="right")] for at in (below, np.ceil(place).astype(np.int64)))
    return [(values * times).sum() / upto[-1], *(low + (place - below) * (high - low))]
