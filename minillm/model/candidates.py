"""Sampling in a fraction of the time: only the tokens that can be kept are looked at, and those kept are sampling.py's exactly.

A vocabulary has 49,152 tokens and a draw needs a few of them. Sorting all of them costs a hundred times a look at each, so:

    a floor        the k-th largest of the maxima of all blocks is no more than the k-th largest logit: the k blocks hold k tokens
                   that are as large. What is below this floor is not among the k largest; with probabilities in place of
                   counts, not in the nucleus either. Above it are few, and they are sorted.
    buckets        a flat distribution has no such floor. Then tokens go into buckets by logit, and only the bucket in which
                   the sum crosses p is sorted.
    a guard        sums in another order differ in their last bits. Where p is closer to a sum than that, sampling.py decides.

So ties stay (top-k) or fall to the lower id (top-p) just as there.
"""

import math
from typing import Any

import numpy as np

from minillm.model import sampling
from minillm.model.params import SamplingParams
from minillm.model.sampling import Seen, most_likely

BLOCKS = 768  # of which maxima are taken
FEW = 4096  # candidates that are sorted at once; more go into buckets
BUCKETS = 1024
GUARD = 8 * np.finfo(np.float64).eps  # of a sum, for each of its terms: what rounding can change
ROUNDING = 1e-6  # of a logit: more than float32 and the shift by the maximum can change

Kept = tuple[np.ndarray | None, np.ndarray]  # ids in rising order, or None for all of the vocabulary; their weights


def sample(logits: np.ndarray, params: SamplingParams, rng: np.random.Generator, seen: Seen = (), **shaped: Any) -> int:
    """Choose the next token of one sequence, as sampling.sample does. logits: (vocab,)."""
    logits = sampling.shape(logits, params, seen, **shaped)
    if params.temperature == 0:
        return most_likely(logits)
    ids, weights = kept(logits, params)
    drawn = draw(weights, rng)
    return drawn if ids is None else int(ids[drawn])


def kept(logits: np.ndarray, params: SamplingParams) -> Kept:  # (vocab,) -> (n,) ids, (n,) weights, not divided by their sum
    """Find the tokens that top-k, top-p and min-p keep, with what they weigh in the draw. Errors: as `most_likely`."""
    best, temperature = float(logits[most_likely(logits)]), params.temperature
    floor, ids, few = -math.inf, None, 0 < params.top_k < len(logits)
    if few:
        floor = kth_floor(logits, params.top_k)
    elif params.top_p == 1 and params.min_p > 0:
        floor = best + temperature * math.log(params.min_p)
    if floor > -math.inf:
        ids = np.flatnonzero(logits >= floor - ROUNDING * (abs(floor) + abs(best)))
    x = np.subtract(logits if ids is None else logits[ids], best, dtype=np.float64)
    x /= temperature
    if few and ids is not None:
        ids, x = select(ids, x, x >= np.partition(x, -params.top_k)[-params.top_k])
    weights = np.exp(x)
    if params.top_p < 1:
        found = nucleus(x, weights, params.top_p)
        if found is None:  # too close to call
            x = sampling.keep(logits.astype(np.float64), params)
            return np.flatnonzero(x > -np.inf), np.exp(x[x > -np.inf])
        if ids is None and found.dtype == bool:  # most of the vocabulary: cheaper as it is
            weights *= found
        else:
            ids, x, weights = found if ids is None else ids[found], x[found], weights[found]
    if params.min_p > 0:
        likely = x >= math.log(params.min_p)
        if ids is None:
            weights *= likely
        else:
            ids, weights = select(ids, weights, likely)
    return ids, weights


def select(ids: np.ndarray, values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ids[mask], values[mask]


def block_maxima(values: np.ndarray) -> np.ndarray:  # (n,) -> (BLOCKS,), or fewer
    """Take the maximum of each of BLOCKS blocks. A block is every BLOCKS-th value: that is how SIMD likes to read them."""
    rows = len(values) // BLOCKS
    if rows < 2:
        return values
    maxima = values[: rows * BLOCKS].reshape(rows, BLOCKS).max(axis=0)
    rest = values[rows * BLOCKS :]
    np.maximum(maxima[: len(rest)], rest, out=maxima[: len(rest)])
    return maxima


def kth_floor(values: np.ndarray, k: int) -> float:  # (n,), 1 to n
    """Find a floor that the k largest reach, and few others: the k-th largest of the blocks' maxima."""
    maxima = block_maxima(values)
    return float(np.partition(values if k > len(maxima) else maxima, -k)[-k])


def nucleus(x: np.ndarray, weights: np.ndarray, p: float) -> np.ndarray | None:  # (n,) logits, (n,) exp(x), 0 < p < 1
    """Find what top-p keeps: indices in rising order, or a mask (n,); None where rounding would decide.

    The largest of x is 0. A token is kept if those before it, the likelier ones and equals of lower id, weigh less than p.
    """
    total = float(weights.sum())
    goal, guard = p * total, GUARD * len(x) * total
    if total - goal <= guard:
        return None
    tops = np.sort(block_maxima(x))[::-1]
    enough = int(np.searchsorted(np.cumsum(np.exp(tops)), goal + guard))
    least = math.log((1 - p) / len(x)) + math.log(total)  # all tokens below it together weigh less than 1 - p
    if len(x) > FEW and enough == len(tops) and (likely := np.count_nonzero(x >= least)) > FEW:
        if (lowest := float(x.min())) == 0:  # all are alike
            return crossing(np.arange(len(x)), x, 0.0, goal, guard)
        least = min(max(least, lowest), -1e-9)  # where all are nearly alike, buckets are as narrow as that
        return flat_nucleus(x if likely == len(x) else np.maximum(x, least), weights, least, goal, guard)
    floor = float(tops[enough]) if enough < len(tops) else -math.inf
    return crossing(np.flatnonzero(x >= max(floor, least - 1)), x, 0.0, goal, guard)


def flat_nucleus(x: np.ndarray, weights: np.ndarray, least: float, goal: float, guard: float) -> np.ndarray | None:
    """Find a nucleus of very many tokens, as a mask: sort only the bucket in which the sum crosses the goal. x >= least."""
    bucket = np.empty(len(x), np.intp)  # 0 the likeliest; BUCKETS the least
    np.multiply(x, BUCKETS / least, out=bucket, casting="unsafe")  # and cut to whole numbers, in one pass
    sums = np.cumsum(np.bincount(bucket, weights, BUCKETS + 1))
    at = int(np.searchsorted(sums, goal + guard))
    above = float(sums[at - 1]) if at else 0.0
    found = None if above > goal - guard else crossing(np.flatnonzero(bucket == at), x, above, goal, guard)
    if found is None:
        return None
    mask = bucket < at
    mask[found] = True
    return mask


def crossing(some: np.ndarray, x: np.ndarray, above: float, goal: float, guard: float) -> np.ndarray | None:  # (m,) -> (n,)
    """Find which of some tokens are kept, neighbours in the order of likelihood. above: what all likelier tokens weigh."""
    own = x[some]
    if len(own) > 1 and own.min() == own.max():  # as many as it takes, the lower ids
        count = (goal - above) / math.exp(own[0])
        return None if abs(count - round(count)) * math.exp(own[0]) <= guard else some[: max(0, math.ceil(count))]
    values = np.sort(own)[::-1]  # SIMD sorts numbers, not indices
    weights = np.exp(values)
    before = above + np.cumsum(weights) - weights
    if np.abs(before - goal).min(initial=np.inf) <= guard:
        return None
    count = int(np.searchsorted(before, goal))
    if count == 0:
        return some[:0]
    sure, ties = own > values[count - 1], np.flatnonzero(own == values[count - 1])
    sure[ties[: count - np.count_nonzero(sure)]] = True
    return some[sure]


def draw(weights: np.ndarray, rng: np.random.Generator) -> int:  # (n,), not all 0
    """Sample an index by inverting the cumulative sum, as sampling.draw does: of many weights first that of blocks."""
    size = 256
    if len(weights) <= FEW:
        return sampling.draw(weights, rng)
    sums = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), size)))
    u = rng.random() * sums[-1]
    block = int(np.searchsorted(sums, u, side="right"))
    inside = np.cumsum(weights[block * size : (block + 1) * size])
    rest = u - (sums[block - 1] if block else 0.0)
    at = int(np.searchsorted(inside, rest, side="right"))
    if at == len(inside):  # rounding: the last that can be drawn
        at = int(np.flatnonzero(weights[block * size : (block + 1) * size])[-1])
    return block * size + at
