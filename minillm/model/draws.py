"""Draws for all sequences of a step at once: what a row costs alone in calls of NumPy, all rows cost together.

    block_sums    the backend: of each 64 tokens the largest logit, and the sum of the weights e^((logit - best) / temperature)
    floor         no token below it is kept (candidates.py says why the maxima tell)
    candidates    the tokens above the floor, in the few blocks whose maximum reaches it: of each row a dozen, or hundreds
    kept          top-k, top-p, min-p of all rows side by side: sorted values, their running sums, and where these cross

With none of the three a token is drawn in two steps: its block by the sums, then the token in its block.

A row in which top-p keeps thousands is done alone. Of one with a border where rounding would decide no token is drawn here, and
no random number: candidates.py does it. Tokens are those of candidates.py, and a row's does not depend on the other rows.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from minillm.backends.ops import BLOCK_TOKENS, Ops
from minillm.cache.protocol import Array
from minillm.model.candidates import GUARD, ROUNDING, flat_nucleus
from minillm.model.candidates import draw as draw_one
from minillm.model.params import SamplingParams

LOWEST = float(np.finfo(np.float32).min)
SUMS_ERROR = 1e-11  # of a row's sum: more than the backend's e^x is off by
WIDTHS = [32, 256, 2048, 16384]  # candidates of rows that share arrays: one row must not widen all. Rows with more are left out
Params: TypeAlias = Sequence[SamplingParams]
Rngs: TypeAlias = Sequence[np.random.Generator]


class Rows(NamedTuple):
    """The rows of a step. The first four are what block_sums finds."""

    maxima: np.ndarray  # (n, blocks) logits
    sums: np.ndarray  # (n, blocks) of weights
    widths: np.ndarray  # (n,) logits of a step of counts; 0 where nothing was counted
    counts: np.ndarray  # (n, steps) tokens, from the best down
    blocks: np.ndarray  # (n, blocks, 64) logits
    temperature: np.ndarray  # (n,)
    best: np.ndarray  # (n,) logits
    total: np.ndarray  # (n,) weight of all tokens

    @property
    def vocab(self) -> int:
        return self.blocks.shape[1] * BLOCK_TOKENS


def draw_all(
    logits: Array, host: np.ndarray, params: Sequence[SamplingParams | None], rngs: Rngs, ops: Ops
) -> list[int | None]:  # (n, vocab) twice
    """Draw a token for each row; None for a row that candidates.py has to draw.

    logits: on the backend; host: downloaded. params: with a temperature above 0, and nothing that changes logits; None for a row
    of which no token is wanted. A backend without block_sums draws none.
    """
    drawn: list[int | None] = [None] * len(params)
    n, vocab = host.shape
    if ops.block_sums is None or vocab % BLOCK_TOKENS or not any(params):
        return drawn
    wanted, own = np.array([p is not None for p in params]), [p or SamplingParams() for p in params]
    temperature, top_p, limited = np.array([(p.temperature, p.top_p, 0 < p.top_k < vocab) for p in own]).T
    everything = np.array([p.keeps_all(vocab) for p in own])
    summed = np.where(wanted & (everything | ((top_p < 1) & (limited == 0))), temperature, 0.0)
    with np.errstate(all="ignore"):  # rows with NaN, or a temperature of next to nothing, have no sum
        maxima, sums, widths, counts = map(ops.download, ops.block_sums(logits, summed, top_p))
        best, total = maxima.max(axis=1).astype(np.float64), sums.sum(axis=1)
    rows = Rows(maxima, sums, widths, counts, host.reshape(n, -1, BLOCK_TOKENS), temperature, best, total)
    good = wanted & np.isfinite(best) & np.isfinite(total)
    chosen = np.flatnonzero(good & everything)
    pairs = list(zip(chosen, draw_from_all(rows, chosen, [rngs[i] for i in chosen.tolist()]), strict=True))
    for i in np.flatnonzero(good & (widths > 0)).tolist():
        drawn[i] = draw_wide(rows, i, own[i], rngs[i])
    chosen = np.flatnonzero(good & ~everything & (widths == 0))
    floor = np.array([floor_of(rows, i, own[i]) for i in chosen.tolist()])
    for group, ids, x in candidates(rows, chosen, floor):
        weights, clear = kept(x, [own[i] for i in group.tolist()], total[group], vocab)
        group, ids, weights = group[clear], ids[clear], weights[clear]
        pairs += zip(group, ids[np.arange(len(ids)), draw(weights, [rngs[i] for i in group.tolist()])], strict=True)
    for row, token in pairs:
        drawn[row] = int(token)
    return drawn


def floor_of(rows: Rows, i: int, own: SamplingParams) -> float:  # a logit, or -inf
    """Find a logit that all kept tokens of a row reach, and few others. The maxima are logits of different tokens."""
    best, temperature, maxima, floor = float(rows.best[i]), own.temperature, rows.maxima[i], -math.inf
    if 0 < own.top_k < rows.vocab:
        floor = float(np.partition(maxima, -own.top_k)[-own.top_k]) if own.top_k <= len(maxima) else LOWEST
    elif own.top_p < 1:
        tops, total = np.sort(maxima)[::-1], float(rows.total[i])
        goal = own.top_p * total + guard(total, rows.vocab)
        enough = int(np.searchsorted(np.cumsum(np.exp((tops - best) / temperature)), goal))
        floor = float(tops[min(enough, len(tops) - 1)])
    if own.min_p > 0 and own.top_p == 1:  # else it comes after top-p, which counts what it takes away
        floor = max(floor, best + temperature * math.log(own.min_p))
    return max(floor - ROUNDING * (abs(floor) + abs(best)), LOWEST) if floor > -math.inf else floor


def guard(total: Any, vocab: int) -> Any:
    """Bound what rounding can change in sums over a row."""
    return (GUARD * vocab + SUMS_ERROR) * total


def candidates(  # (m,) row numbers, (m,) logits -> groups: (g,) row numbers, (g, width) ids, (g, width) logits as `kept` has them
    rows: Rows, chosen: np.ndarray, floor: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Find the tokens that reach the floor of each row: rising ids, then 0 with -inf to the width of the group's arrays."""
    chosen, floor = chosen[floor > -np.inf], floor[floor > -np.inf].astype(np.float32)
    found = np.flatnonzero(rows.maxima[chosen] >= floor[:, None])  # of one dimension: with two it takes many times as long
    line, block = np.divmod(found, rows.maxima.shape[1])
    values = rows.blocks[chosen[line], block]
    found = np.flatnonzero(values >= floor[line, None])
    at, inside = np.divmod(found, BLOCK_TOKENS)
    ids, values = BLOCK_TOKENS * block[at] + inside, values.reshape(-1)[found]
    counts = np.bincount(line[at], minlength=len(chosen))
    begins, sizes = np.cumsum(counts) - counts, np.searchsorted(WIDTHS, counts)
    for group in [alike for size in range(len(WIDTHS)) if len(alike := np.flatnonzero(sizes == size))]:
        columns, own = np.arange(counts[group].max()), chosen[group]
        there = columns < counts[group][:, None]
        places = np.where(there, begins[group][:, None] + columns, 0)
        with np.errstate(over="ignore"):  # a temperature of next to nothing
            x = (values[places].astype(np.float64) - rows.best[own][:, None]) / rows.temperature[own][:, None]
        yield own, np.where(there, ids[places], 0), np.where(there, x, -np.inf)


def kept(  # (m, width) logits, the best 0, (m,) weight of all tokens -> (m, width) weights, (m,): whether they are certain
    x: np.ndarray, params: Params, total: np.ndarray, vocab: int
) -> tuple[np.ndarray, np.ndarray]:
    """Apply top-k, top-p and min-p to candidates, as candidates.kept does."""
    lines, width = np.arange(len(x)), x.shape[1]
    k, p, least = (np.array([getattr(own, name) for own in params]) for name in ("top_k", "top_p", "min_p"))
    values, limited, clear = np.sort(x, axis=1)[:, ::-1], (k > 0) & (k < vocab), np.ones(len(x), bool)
    if limited.any():
        kth = np.where(limited, values[lines, np.clip(k, 1, width) - 1], -np.inf)[:, None]
        x, values = np.where(x >= kth, x, -np.inf), np.where(values >= kth, values, -np.inf)
    weights = np.exp(x)
    if (p < 1).any():
        sorted_weights = np.exp(values)
        sums = np.cumsum(sorted_weights, axis=1)
        total = np.where(limited, sums[:, -1], total)
        before, goal, near = sums - sorted_weights, p * total, guard(total, vocab)
        count = (before < goal[:, None]).sum(axis=1)
        borders = before[lines, count - 1], before[lines, np.minimum(count, width - 1)]  # the nearest
        close = (np.abs(np.array([*borders, total]) - goal) <= near).any(axis=0)
        clear = (p == 1) | ((limited | (sums[:, -1] >= goal + near)) & ~close)
        keep = x >= np.where(p == 1, -np.inf, values[lines, count - 1])[:, None]
        for i in np.flatnonzero(clear & (p < 1) & (keep.sum(axis=1) > count)):  # of equals the lower ids
            ties = np.flatnonzero(x[i] == values[i, count[i] - 1])
            keep[i, ties[count[i] - keep[i].sum() :]] = False
        weights = np.where(keep, weights, 0.0)
    if least.any():
        with np.errstate(divide="ignore"):
            weights = np.where(x >= np.log(least)[:, None], weights, 0.0)
    return weights, clear


def draw_wide(rows: Rows, i: int, own: SamplingParams, rng: np.random.Generator) -> int | None:
    """Draw from a wide nucleus: down to the step of `counts` in which it ends, and nothing is sorted but tokens near its end."""
    total, width = float(rows.total[i]), float(rows.widths[i])
    goal, near = own.top_p * total, guard(total, rows.vocab)
    depths = width * np.arange(1, rows.counts.shape[1] + 1)
    sums = np.cumsum(rows.counts[i] * np.exp((width / 2 - depths) / own.temperature))  # each as in the middle of its step
    floor = float(rows.best[i]) - float(depths[min(int(np.searchsorted(sums, 1.001 * goal)), len(depths) - 1)])
    ids = np.flatnonzero((row := rows.blocks[i].reshape(-1)) >= np.float32(max(floor, LOWEST)))
    x = (row[ids].astype(np.float64) - rows.best[i]) / own.temperature
    weights = np.exp(x)
    if weights.sum() < goal + near or total - goal <= near:
        return None
    nucleus = flat_nucleus(x, weights, min(float(x.min()), -1e-9), goal, near)
    if nucleus is None:
        return None
    weights *= nucleus & (x >= math.log(own.min_p)) if own.min_p else nucleus
    return int(ids[draw_one(weights, rng)])


def draw(weights: np.ndarray, rngs: Rngs) -> np.ndarray:  # (m, width) -> (m,) columns
    """Sample a column of each row by inverting its running sum, as sampling.draw does."""
    sums = np.cumsum(weights, axis=1)
    u = np.array([rng.random() for rng in rngs]) * sums[:, -1]
    return (sums <= u[:, None]).sum(axis=1)


def draw_from_all(rows: Rows, chosen: np.ndarray, rngs: Rngs) -> np.ndarray:  # (m,) row numbers -> (m,) tokens
    """Sample from whole rows: the block by the sums, then the token in it."""
    until, lines = np.cumsum(rows.sums[chosen], axis=1), np.arange(len(chosen))
    u = np.array([rng.random() for rng in rngs]) * until[:, -1]
    block = (until <= u[:, None]).sum(axis=1)
    u -= until[lines, block] - rows.sums[chosen, block]
    x = rows.blocks[chosen, block].astype(np.float64)
    weights = np.exp((x - rows.best[chosen][:, None]) / rows.temperature[chosen][:, None])
    at = (np.cumsum(weights, axis=1) <= u[:, None]).sum(axis=1)
    last = BLOCK_TOKENS - 1 - (weights[:, ::-1] > 0).argmax(axis=1)  # rounding: no further than what can be drawn
    return BLOCK_TOKENS * block + np.minimum(at, last)
