"""What typical mistakes give: the answers that `check_close(..., mistakes=)` recognises.

Each function takes the inputs of a test and returns {what was done: the result}, in float64 and apart from the code under test.
Hypothesis shows the smallest input that fails; there two mistakes may agree, so the order matters: what fails only on larger
inputs comes first.
"""

import numpy as np
import oracles


def rms_norm(x, weight, eps):  # (n, d), (d,) -> {words: (n, d)}
    x = x.astype(np.float64)
    mean_square, centred = (x * x).mean(-1, keepdims=True), x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return {
        "one mean is taken for all vectors: each has its own (axis=-1)": x / np.sqrt((x * x).mean() + eps) * weight,
        "the mean goes over axis 0: it belongs to a vector's components (axis=-1)": x / np.sqrt((x * x).mean(0) + eps) * weight,
        "no root is taken of the mean square": x / (mean_square + eps) * weight,
        **slips_of_eps(x, weight, eps, mean_square),
        "the variance is taken: the mean square has no mean subtracted": x / np.sqrt(variance + eps) * weight,
        "the mean is subtracted first: that is LayerNorm": centred / np.sqrt(variance + eps) * weight,
        "the squares are summed, not averaged": x / np.sqrt((x * x).sum(-1, keepdims=True) + eps) * weight,
        "the weight is left out": x / np.sqrt(mean_square + eps),
    }


def slips_of_eps(x, weight, eps, mean_square):  # -> {words: (n, d)}
    """Told apart where the vectors are small; where eps hardly counts, all of these are the same to five digits."""
    left_out = x / np.sqrt(np.where(mean_square, mean_square, np.nan)) * weight
    if mean_square.min() > 10 * eps:
        return {"eps is not added to the mean square, under the root": left_out}
    return {
        "eps is added after the root, not under it": x / (np.sqrt(mean_square) + eps) * weight,
        "the larger of mean square and eps is taken: they are added": x / np.sqrt(np.maximum(mean_square, eps)) * weight,
        "eps is left out": left_out,
    }


def rope(x, positions, base, interleaved):  # (n, heads, d), (n,) -> {words: (n, heads, d)}
    right, half, heads = oracles.rope(x, positions, base, interleaved), x.shape[-1] // 2, x.shape[1]
    first, second = (np.s_[..., 0::2], np.s_[..., 1::2]) if interleaved else (np.s_[..., :half], np.s_[..., half:])
    angles = np.asarray(positions, np.float64)[:, None, None] * float(base) ** (-np.arange(half) / half)
    late, each_head = right.copy(), np.asarray(positions)[np.arange(heads) % len(positions)]
    late[second] = right[first] * np.sin(angles) + x[second] * np.cos(angles)
    by_head = oracles.rope(x.swapaxes(0, 1), each_head, base, interleaved).swapaxes(0, 1)
    other = "by halves (i and i + d/2)" if interleaved else "neighbours (2i and 2i + 1)"
    return {
        f"pairs are {other} though interleaved is {interleaved}": oracles.rope(x, positions, base, not interleaved),
        "angles run over heads: one token has one angle for all its heads (cos[:, None, :])": by_head,
        "nothing is turned": x,
        "vectors are turned the other way: look at the signs": oracles.rope(x, -positions, base, interleaved),
        "the first component is overwritten before the second is computed from it": late,
    }


def head(q, k, v):  # (n_q, d), (n_k, d), (n_k, d) -> {words: (n_q, d)}
    n_q, n_k, root = len(q), len(k), q.shape[1] ** 0.5
    scores = q.astype(np.float64) @ k.T / root
    place = np.arange(n_k) - np.arange(n_q)[:, None]  # of a key, counted from the query's number
    seen = place <= n_k - n_q

    def average(visible, scores=scores, hidden=-np.inf, axis=1):
        scores = np.where(visible, scores, hidden)
        weights = np.exp(scores - scores.max(axis, keepdims=True))
        return weights / weights.sum(axis, keepdims=True) @ v

    with np.errstate(invalid="ignore"):
        return {
            "nothing is masked: queries see keys that come after them": average(True),
            "the triangle begins at the first key: with a cache the queries are the last tokens": average(place <= 0),
            "the scores are not divided by √d": average(seen, scores * root),
            "the scores are divided by d, not by √d": average(seen, scores / root),
            "hidden keys get a score of 0, which still has a weight: it must be -inf": average(seen, hidden=0.0),
            "the mask is upside down": average(~seen),
            "a query does not see its own key": average(place < n_k - n_q),
            "the softmax goes down the queries: each query has its own, over its keys": average(seen, axis=0),
        }


def top_p(logits, p, n):  # [float], float, how many are right -> {words: ids}
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    sums = np.cumsum([0.0, *(logits[i] for i in order)])
    as_probabilities = {i for i, s in zip(order, sums, strict=False) if s < p}
    return {
        "That is a share p of the ids, whatever their probabilities.": set(order[: max(1, int(p * len(order)))]),
        "The token that crosses p is missing: with it the kept ones reach p.": set(order[: n - 1]),
        "Among equals the lower ids come first: these are the higher.": set(sorted(order, key=lambda i: (-logits[i], -i))[:n]),
        "That is one more than it takes to reach p.": set(order[: n + 1]),
        "These are places in the sorted list; the ids are what stands there.": set(range(n)),
        "Logits were summed as if they were probabilities: softmax them first.": as_probabilities,
        "Those are the unlikeliest: sort from the likeliest down.": set(order[n:]) or set(order[-n:]),
    }


def attention(q, k, v):  # (n_q, heads, d), (n_k, kv_heads, d), (n_k, kv_heads, d) -> {words: (n_q, heads, d)}
    heads, kv_heads = q.shape[1], k.shape[1]
    right, dealt = oracles.attention(q, k, v), np.arange(heads) % kv_heads
    return {
        "every query head reads KV head 0": oracles.attention(q, k[:, :1], v[:, :1]),
        "query heads are dealt out in turn (h modulo kv_heads): neighbours share a KV head": oracles.attention(
            q, k[:, dealt], v[:, dealt]),
        "values come from another KV head than keys: both are head h // group": oracles.attention(q, k, v[:, ::-1]),
        "heads and tokens are flattened in the wrong order at the end": right.transpose(1, 0, 2).reshape(right.shape),
    }  # fmt: skip


def paged(q, k, v, k_pages, v_pages, table):  # n_k keys in blocks of (blocks, size, kv_heads, d) -> {words: (n_q, heads, d)}
    """Over the keys in order, and what is read instead where the table is not looked at or not cut."""
    n_k, size, shape = len(k), k_pages.shape[1], (-1, *k.shape[1:])
    last = (len(table) - 1) * size

    def over(k, v, shift=0, causal=True):
        return oracles.attention(q, k, v, offset=n_k - len(q) - shift, causal=causal)

    in_order = [pages[: len(table)].reshape(shape)[:n_k] for pages in (k_pages, v_pages)]
    one_block = [np.concatenate([pages[table[0]]] * len(table))[:n_k] for pages in (k_pages, v_pages)]
    shifted = [pages[np.roll(table, -1)].reshape(shape)[:n_k] for pages in (k_pages, v_pages)]
    each = [i for i in range(n_k) if i % size < n_k % size]
    root = q.shape[-1] ** 0.5

    def seen(visible):
        """Attention with a mask of any shape, head by head."""
        group = q.shape[1] // k.shape[1]
        heads = [(q[:, h], k[:, h // group], v[:, h // group]) for h in range(q.shape[1])]
        weights = [np.where(visible, np.exp(a.astype(np.float64) @ b.T / root), 0) for a, b, _ in heads]
        averages = [w / w.sum(1, keepdims=True) @ c for w, (_, _, c) in zip(weights, heads, strict=True)]
        return np.stack(averages, 1)

    place, at = np.arange(n_k), np.arange(n_k - len(q), n_k)[:, None]
    with np.errstate(invalid="ignore"):
        return {
            "the table is not looked at: tile i is read from block i": over(*in_order),
            "every tile is read from the first block": over(*one_block),
            "each tile is read from the block after its own": over(*shifted),
            "nothing is masked: queries see keys that come after them": over(k, v, causal=False),
            "the mask counts keys from each block's beginning: columns are places in the sequence": seen(place % size <= at),
            "of every block only n_k % size slots are read: all but the last are full": over(k[each], v[each]),
            "the scores are divided by √d twice: the queries are scaled already": oracles.attention(q / root, k, v),
            "each tile begins anew: m, l and acc must all go on to the next": over(k[last:], v[last:], shift=last),
            "the last tile is left out": over(k[:last], v[:last]) if last else np.zeros(q.shape),
            "keys are averaged, not values": over(k, k),
            **attention(q, k, v),
        }
