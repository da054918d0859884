"""What typical mistakes give in lesson 03: mistakes.py for attention in tiles.

Each function computes the answer in float64, over again and with one slip; the slips are arguments of what is inside it.
"""

import numpy as np


def of(ways, found, i):  # {words: (a, b, ...)}, (a, b, ...), which one -> {words: a}
    """One output's mistakes; first those that explain all outputs: on small inputs two mistakes agree in one of them."""

    def explains(words):
        return all(np.allclose(x, y, 1e-4, 1e-5, equal_nan=True) for x, y in zip(ways[words], found, strict=False))

    return {words: ways[words][i] for words in sorted(ways, key=explains, reverse=True)}


def online(state, pieces):  # (m, l, acc), [(scores, values), ...] -> {words: (m, l, acc)}
    def fold(l_shrinks=True, acc_shrinks=True, stale=False, turn=1, keeps=1, each=False, whole=False, skip=False):
        m, l, acc = (np.array(x, np.float64) for x in state)
        for scores, values in pieces:
            if skip and np.isneginf(scores.max(axis=1)).any():
                continue
            top = np.maximum(m, scores.max() if whole else scores.max(axis=1))
            base = np.where(np.isneginf(top), 0, top)
            alpha = np.exp(turn * (m - base))
            weights = np.exp(scores - (m if stale else base)[:, None])
            l = keeps * l * (alpha if l_shrinks else 1) + weights.sum(axis=1)
            acc = keeps * acc * (alpha[:, None] if acc_shrinks else 1) + weights @ values
            m, acc = top, acc / l[:, None] if each else acc
        return m, l, acc

    with np.errstate(all="ignore"):
        return {
            "the sum so far is not shrunk when the maximum rises: l · exp(m - m')": fold(l_shrinks=False),
            "acc is not shrunk when the maximum rises: it needs the same exp(m - m') as l": fold(acc_shrinks=False),
            "the new scores are taken under the old maximum: exp(x - m) where it must be exp(x - m')": fold(stale=True),
            "the factor is upside down: exp(m - m') is at most 1, what was summed so far shrinks": fold(turn=-1),
            "what came before is forgotten: l and acc add up over all pieces": fold(keeps=0),
            "acc is divided by l in each tile: only the end may do that": fold(each=True),
            "one maximum is taken for all rows: each row has its own (axis=1)": fold(whole=True),
            "a tile is skipped for all rows because one of them sees nothing of it": fold(skip=True),
        }


def visible(n_q, n_k, causal, window, offset, rows, columns):  # ..., slice, slice -> {words: (rows, columns) bool}
    i, j = np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)[None, :]

    def rule(position=i + offset, key=j, strict=0, near=0, causal=causal, window=window, both=False):
        if both and window:
            return abs(key - position) < window
        past = key + strict <= position if causal else np.full((len(position), key.shape[1]), True)
        return past & (key > position - window - near) if window else past

    return {
        "the offset is computed from the sizes: it may be given, take self.offset": rule(position=i + n_k - n_q),
        "the offset is left out: query i stands at offset + i": rule(position=i),
        "each tile is masked as if it held the first queries and keys: it begins at rows.start and columns.start": rule(
            i - rows.start + offset, j - columns.start),
        "positions are counted from the tile's first row: rows.start is left out": rule(position=i + offset - rows.start),
        "keys are counted from the tile's first column: columns.start is left out": rule(key=j - columns.start),
        "a query does not see its own key": rule(strict=1),
        "a window of w shows w + 1 keys: the query's own is one of the w": rule(near=1),
        "a window of w shows w - 1 keys: the query's own is one of the w": rule(near=-1),
        "the window is not looked at": rule(window=None),
        "causal=False is not looked at": rule(causal=True),
        "the window reaches to both sides: what comes after the query stays hidden": rule(both=True),
        "the mask is turned around: True is where a key is hidden": ~rule(),
        "causal is not looked at": rule(causal=False),
        "the window alone is looked at: later keys are seen": rule(causal=False),
    }


def average(scores, seen, v):  # (r, n), (r, n) bool, (n, d) or (r, n, d) -> (r, d), (r,)
    """Softmax over what is seen, and its log-sum-exp; 0 and -inf where that is nothing."""
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(axis=1, initial=-np.inf, keepdims=True)
    weights = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = weights.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (top + np.log(total))[:, 0]
    weights = weights / np.where(total, total, 1)
    return (weights @ v if v.ndim == 2 else (weights[..., None] * v).sum(axis=1)), lse


def flash_loop(q, k, v, seen, block_q, block_k):  # (n_q, d), (n_k, d), (n_k, d), (n_q, n_k) bool -> {words: (out, lse)}
    n_q, n_k = seen.shape
    scores, place = q.astype(np.float64) @ k.T / q.shape[1] ** 0.5, np.arange(n_k)
    starts, stops = np.zeros((n_q, 1), int), np.zeros((n_q, 1), int)  # of the keys that a row's tile sees
    for a in range(0, n_q, block_q):
        keys = np.flatnonzero(seen[a : a + block_q].any(axis=0))
        starts[a : a + block_q], stops[a : a + block_q] = (keys[0], keys[-1] + 1) if len(keys) else (0, 0)
    inside = (place >= starts) & (place < stops)
    local = (place - starts) % block_k  # the column's number in its tile
    tail, last = (stops - starts) % block_k, starts + np.maximum(stops - starts - 1, 0) // block_k * block_k
    return {
        "the tail is left out: the last tile of keys may be shorter": average(scores, seen & (place < stops - tail), v),
        "the tail is left out: n_k need not be a multiple of block_k": average(
            scores, seen & (place < n_k // block_k * block_k), v),
        "the last tile is left out": average(scores, seen & (place < last), v),
        "the last key is left out: a slice ends before its stop": average(scores, seen & (place < stops - 1), v),
        "each tile begins afresh: m, l and acc must come out of update and go into the next": average(
            scores, seen & (place >= last), v),
        "scores are divided by √d twice: q_tile has been already": average(scores / q.shape[1] ** 0.5, seen, v),
        "nothing is masked inside a tile": average(scores, inside, v),
        "nothing is masked": average(scores, np.full_like(seen, True), v),
        "each tile is masked as if it held the first keys: mask.scores wants the tile's own columns": average(
            scores, np.take_along_axis(seen, local, 1) & inside, v) if n_k else average(scores, seen, v),
        "the values of the first tile are taken each time": average(scores, seen, v[local]),
    }  # fmt: skip


def merge(outs, lses):  # (splits, ..., d), (splits, ...) -> {words: (out, lse)}
    outs, lses = np.asarray(outs, np.float64), np.asarray(lses, np.float64)
    with np.errstate(all="ignore"):
        top, total = lses.max(axis=0), np.logaddexp.reduce(lses, axis=0)
        weights = np.exp(lses - top)[..., None]
        low = np.exp((lses - lses.max()).astype(np.float32))  # in float32 they vanish
        heaviest = np.take_along_axis(outs, lses.argmax(axis=0)[None, ..., None], 0)[0]
        return {
            "all parts count alike: part s weighs exp(lse_s)": (outs.mean(axis=0), total),
            "parts weigh lse_s itself: it is a logarithm, the weight is exp(lse_s)": (
                (lses[..., None] * outs).sum(0) / lses.sum(0)[..., None], total),
            "the weighted parts are added and not divided by the sum of the weights": ((weights * outs).sum(0), total),
            "the weights are divided by their sum over the wrong axis: the parts are axis 0": (
                (weights / weights.sum(axis=-2, keepdims=True) * outs).sum(0), total),
            "one maximum is subtracted from all rows: those far below it vanish": (
                (low[..., None] * outs).sum(0) / np.where(low.sum(0), low.sum(0), 1)[..., None], lses.max() + np.log(low.sum(0))),
            "the part with the largest lse is taken for the whole": (heaviest, top),
            "the maximum that was subtracted is not added back to the log-sum-exp": (heaviest, total - top),
        }  # fmt: skip


def tile_backward(q, k, v, s, lse, delta, d_out):  # as the function -> {words: (dq, dk, dv)}
    q, k, v, s, lse, delta, d_out = (np.asarray(x, np.float64) for x in (q, k, v, s, lse, delta[:, None], d_out))
    lse = np.where(np.isneginf(lse), 0, lse)[:, None]
    p, dp, root = np.exp(s - lse), d_out @ v.T, q.shape[1] ** 0.5
    unmasked = np.exp(q @ k.T / root - lse)
    total = p.sum(axis=1, keepdims=True)
    tile = p / np.where(total, total, 1)

    def parts(ds, p=p, root=1.0):
        return ds @ k / root, ds.T @ q / root, p.T @ d_out

    ways = {
        "delta is left out: dS = P ∘ (dP - delta)": parts(p * dp),
        "delta is not multiplied by P: dS = P ∘ (dP - delta), not P ∘ dP - delta": parts(p * dp - delta),
        "delta is added: dS = P ∘ (dP - delta)": parts(p * (dp + delta)),
        "delta is summed over this tile's keys alone: it belongs to the whole row, take what is given": parts(
            p * (dp - (p * dp).sum(axis=1, keepdims=True))),
        "the softmax is taken inside the tile: P = exp(S - lse), lse belongs to the whole row": parts(tile * (dp - delta), tile),
        "the scores are computed again without the mask: hidden keys get weight": parts(unmasked * (dp - delta), unmasked),
        "dq and dk are divided by √d here: the caller does that": parts(p * (dp - delta), root=root),
        "S stands where P must: P = exp(S - lse)": parts(np.where(np.isneginf(s), 0, s) * (dp - delta), s),
    }
    if len(q) == len(k):  # square tiles alone let these through
        ds = p * (dp - delta)
        ways["dq is made of dSᵀ and dk of dS: the other way round"] = ds.T @ k, ds @ q, p.T @ d_out
        ways["dv is made of P: it must be Pᵀ dO"] = ds @ k, ds.T @ q, p @ d_out
        ways["delta goes along the keys: it belongs to the queries, delta[:, None]"] = parts(p * (dp - delta.T))
        ways["nothing is transposed: dk = dSᵀ Q and dv = Pᵀ dO"] = ds @ k, ds @ q, p @ d_out
    return ways
