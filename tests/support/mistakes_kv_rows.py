"""What comes out of lesson 08's exercises on keys and values, right and with the slips that people make: {words: result}.

Right answers are computed here another way than in the package: in float64, one number and one query at a time.
"""

import numpy as np
from mistakes_activations import half, steps

GROUP = 32


def grid(lowest, highest, top):  # -> scale, minimum: what float16 holds
    return half(np.float32(np.asarray(highest, np.float32) - np.asarray(lowest, np.float32)) / np.float32(top)), half(lowest)


# --- 08.4 ---------------------------------------------------------------------------------------------------------------


def channels(keys, bits, axes=0, top=None):  # (tokens, heads, d) -> codes, scales, minima; axes: what shares a grid
    top = top or 2**bits - 1
    shape = keys.shape[1:] if axes == 0 else None
    scales, minima = grid(keys.min(axis=axes, keepdims=True), keys.max(axis=axes, keepdims=True), top)
    codes = np.clip(steps(keys - minima.astype(np.float32), scales), 0, 2**bits - 1)
    return codes, *(a.reshape(shape) if shape else a for a in (scales, minima))


def symmetric(keys, bits):  # -> codes, scales, minima
    top = np.abs(keys).max(axis=0)
    scales, minima = grid(-top, top, 2**bits - 1)
    return np.clip(steps(keys - minima.astype(np.float32), scales), 0, 2**bits - 1), scales, minima


def channel_mistakes(keys, bits):  # -> {words: codes}, {words: scales}, {words: minima}
    top, (_, scales, minima) = 2**bits - 1, channels(keys, bits)
    full = np.broadcast_to
    slips = {
        "each token got a grid of its own: the outlier channel sets its step": channels(keys, bits, 2),
        "all heads share the grid of a channel: each head has its own": channels(keys, bits, (0, 1)),
        "all channels of a head share a grid": channels(keys, bits, (0, 2)),
        "there is one grid for all keys": channels(keys, bits, (0, 1, 2)),
        "the grid is symmetric: it reaches from a channel's smallest number to its largest": symmetric(keys, bits),
        f"the range was cut into {top + 1} steps: between {top + 1} levels lie {top}": channels(keys, bits, 0, top + 1),
    }
    codes = {said: full(made[0], keys.shape) for said, made in slips.items()}
    w, s = keys.astype(np.float32), scales.astype(np.float32)
    codes |= {
        "the minimum was not taken off": np.clip(steps(w, s), 0, top),
        "the quotient was cut, not rounded": np.clip(
            np.floor((w - minima.astype(np.float32)) / np.where(s == 0, np.inf, s)), 0, top),
        "a range of 0 was divided by: a constant channel has codes of 0": np.where(
            scales == 0, np.where(keys > minima, top, 0), channels(keys, bits)[0]),
        "codes are counted from the top": top - channels(keys, bits)[0],
    }  # fmt: skip
    shaped = {said: made for said, made in slips.items() if np.broadcast_shapes(made[1].shape, keys.shape) == keys.shape}
    return codes, *({said: full(made[i], keys.shape)[0] for said, made in shaped.items()} for i in (1, 2))


# --- 08.7 ---------------------------------------------------------------------------------------------------------------


def nibbles(x, steps_of_range=15):  # (..., d) -> codes (..., d), the numbers' bytes (..., 4)
    scale, minimum = grid(x.min(-1, keepdims=True), x.max(-1, keepdims=True), steps_of_range)
    codes = np.clip(steps(x - minimum.astype(np.float32), scale), 0, 15).astype(int)
    return codes, tail(scale, minimum)


def tail(*numbers):
    return np.concatenate([np.asarray(n, np.float32) for n in numbers], -1).astype("<f2").view(np.uint8).astype(int)


def row(x):  # (..., d) -> (..., d/2 + 4) int
    codes, numbers = nibbles(x)
    d = x.shape[-1] // 2
    return np.concatenate([codes[..., :d] + 16 * codes[..., d:], numbers], -1)


def row_mistakes(x):  # -> {words: bytes}
    codes, numbers = nibbles(x)
    scale, minimum = grid(x.min(-1, keepdims=True), x.max(-1, keepdims=True), 15)
    d = x.shape[-1] // 2
    low, high, wide = codes[..., :d], codes[..., d:], nibbles(x, 16)
    long_codes, long_numbers = long(x)
    top = np.abs(x).max(-1, keepdims=True)
    even_scale, even_minimum = grid(-top, top, 15)
    even = np.clip(steps(x - even_minimum.astype(np.float32), even_scale), 0, 15).astype(int)

    def join(first, second, behind=numbers):
        return np.concatenate([first + 16 * second, behind], -1)

    return {
        "a byte holds neighbours, 2i and 2i + 1: the halves of the row belong together, i and i + d/2": join(
            codes[..., 0::2], codes[..., 1::2]),
        "the first half of the row has the high bits: it has the low ones": join(high, low),
        "each code has a byte of its own: two share one": np.concatenate([codes, numbers], -1),
        "the range was cut into 16 steps: between 16 levels lie 15": join(wide[0][..., :d], wide[0][..., d:], wide[1]),
        "the range was cut into 31 steps, so codes run into their neighbours: four bits count to 15": np.concatenate(
            [(long_codes[..., :d] | long_codes[..., d:] << 4) & 255, long_numbers], -1),
        "minimum and scale are swapped: the scale comes first": join(low, high, tail(minimum, scale)),
        "the minimum is not stored": join(low, high, tail(scale)),
        "the grid is symmetric: it reaches from the smallest number to the largest": join(
            even[..., :d], even[..., d:], tail(even_scale, even_minimum)),
        "all rows share one grid": join(*one_grid(x)),
        "the high bits are lost": join(low, 0 * high),
    }  # fmt: skip


def long(x):  # -> codes of five bits, the numbers' bytes
    scale, minimum = grid(x.min(-1, keepdims=True), x.max(-1, keepdims=True), 31)
    return np.clip(steps(x - minimum.astype(np.float32), scale), 0, 31).astype(int), tail(scale, minimum)


def one_grid(x):
    scale, minimum = grid(x.min(keepdims=True), x.max(keepdims=True), 15)
    codes, d = np.clip(steps(x - minimum.astype(np.float32), scale), 0, 15).astype(int), x.shape[-1] // 2
    both = np.broadcast_to(tail(scale, minimum).reshape(-1), (*x.shape[:-1], 4))
    return codes[..., :d], codes[..., d:], both


# --- 08.8 ---------------------------------------------------------------------------------------------------------------


def sealed(k, v, bits):  # (n, heads, d) twice, n a multiple of 32 -> what comes back of them, float64
    made = []
    for at in range(0, len(k), GROUP):
        codes, scales, minima = channels(k[at : at + GROUP], bits)
        made.append(codes * scales + minima)
    codes, scales, minima = channels(v, bits, 2)
    return np.concatenate(made), codes * scales + minima


def seen_from(q, k, v, bits, first, opened):  # queries of positions first …; opened(p): from where on p sees tokens in full
    n, heads, ratio = len(k), q.shape[1], q.shape[1] // k.shape[1]
    whole = n // GROUP * GROUP
    kept = [half(x[:whole]).astype(np.float32) for x in (k, v)]  # in the window, until they are sealed
    codes = sealed(*kept, bits) if whole else kept
    out = np.zeros(q.shape)
    for i, head in np.ndindex(len(q), heads):
        p = first + i
        at = min(max(0, opened(p)), p + 1, whole if opened(p) > whole else opened(p))
        keys = np.concatenate([codes[0][:at, head // ratio], half(k[at : p + 1, head // ratio])])
        values = np.concatenate([codes[1][:at, head // ratio], half(v[at : p + 1, head // ratio])])
        scores = keys @ q[i, head].astype(np.float64) / np.sqrt(q.shape[2])
        weights = np.exp(scores - scores.max())
        out[i, head] = weights @ values / weights.sum()
    return out


def seen(q, k, v, bits, first):  # -> (n_q, heads, d)
    return seen_from(q, k, v, bits, first, lambda p: p // GROUP * GROUP)


def seen_mistakes(q, k, v, bits, first):  # -> {words: (n_q, heads, d)}
    last = len(k) - 1
    last_group = last // GROUP * GROUP
    return {
        "the window is off by one: the last token of a group saw its own group sealed": seen_from(
            q, k, v, bits, first, lambda p: (p + 1) // GROUP * GROUP),
        "the window is off by one: the first token of a group saw the group before in full": seen_from(
            q, k, v, bits, first, lambda p: max(0, p - 1) // GROUP * GROUP),
        "all queries saw what the first one sees: each has its own group in full, and all before sealed": seen_from(
            q, k, v, bits, first, lambda p: first // GROUP * GROUP),
        "all queries saw what the last one sees: earlier ones see their own groups in full": seen_from(
            q, k, v, bits, first, lambda p: last // GROUP * GROUP),
        "nothing was seen as sealed": seen_from(q, k, v, bits, first, lambda p: 0),
        "the group before was seen in full: it is kept so for drafts, and queries see it sealed": seen_from(
            q, k, v, bits, first, lambda p: max(0, p // GROUP - 1) * GROUP),
        "only the own group was seen": seen_own(q, k, v, first),
        "queries saw sealed groups that come after their own": seen_rows(q, k, v, bits, first, lambda p, group, last: (
            range(last_group), range(group, p + 1))),
        "queries saw tokens that come after them: a group's own tokens end at `last`": seen_rows(
            q, k, v, bits, first, lambda p, group, last: (range(group), range(group, p + 1 + len(k) - last))),
        "the own group stands before the sealed ones: the mask hides the newest tokens, and those stand last": seen_rows(
            q, k, v, bits, first, lambda p, group, last: (
                range(max(0, min(group, group - last + 1 + p))), range(group, min(last, p + 1 + group)))),
    }  # fmt: skip


def seen_own(q, k, v, first):
    out = np.zeros(q.shape)
    for i in range(len(q)):
        at = (first + i) // GROUP * GROUP
        out[i] = seen_from(q[i : i + 1], k[at : first + i + 1], v[at : first + i + 1], 4, first + i - at, lambda p: 0)[0]
    return out


def seen_rows(q, k, v, bits, first, shown):  # shown(p, group, last): positions that p sees sealed, and in full
    whole = len(k) // GROUP * GROUP
    kept = [half(x).astype(np.float32) for x in (k, v)]
    codes = sealed(kept[0][:whole], kept[1][:whole], bits) if whole else kept
    out, ratio = np.zeros(q.shape), q.shape[1] // k.shape[1]
    for i, head in np.ndindex(len(q), q.shape[1]):
        p = first + i
        group = p // GROUP * GROUP
        a, b = map(list, shown(p, group, min(len(k), group + GROUP)))
        keys, values = (np.concatenate([codes[j][a, head // ratio], kept[j][b, head // ratio]]) for j in (0, 1))
        scores = keys @ q[i, head].astype(np.float64) / np.sqrt(q.shape[2])
        weights = np.exp(scores - scores.max())
        out[i, head] = weights @ values / weights.sum()
    return out
