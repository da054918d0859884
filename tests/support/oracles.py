"""What must come out, computed the slow and obvious way: plain Python loops in float64.

Nothing here calls the code under test, NumPy's linear algebra, or anything clever. Arrays are lists of lists until the end.
"""

import math

import numpy as np


def rms_norm(x, weight, eps):  # (n, d), (d,) -> (n, d)
    out = []
    for row in np.asarray(x, np.float64).tolist():
        root = math.sqrt(sum(a * a for a in row) / len(row) + eps)
        out.append([a / root * w for a, w in zip(row, np.asarray(weight, np.float64).tolist(), strict=True)])
    return np.array(out)


def rope(x, positions, base, interleaved):  # (n, heads, d), (n,) -> (n, heads, d)
    """Each pair as a complex number, multiplied by e^(i · position · base^(-2j/d))."""
    n, heads, d = x.shape
    out = np.zeros((n, heads, d))
    for t in range(n):
        for h in range(heads):
            for j in range(d // 2):
                a, b = (2 * j, 2 * j + 1) if interleaved else (j, j + d // 2)
                angle = float(positions[t]) * float(base) ** (-2 * j / d)
                z = complex(x[t, h, a], x[t, h, b]) * complex(math.cos(angle), math.sin(angle))
                out[t, h, a], out[t, h, b] = z.real, z.imag
    return out


def softmax(row):  # [float] -> [float]
    top = max(row)
    if top == -math.inf:
        return [0.0] * len(row)
    weights = [math.exp(a - top) for a in row]
    return [w / sum(weights) for w in weights]


def max_sum_acc(scores, values):  # (rows, n), (n, d) -> (rows,), (rows,), (rows, d)
    """Of each row x: its maximum m, Σ exp(x - m), and Σ exp(x - m) v. A row of nothing but -inf: -inf, 0 and 0."""
    rows, (n, d) = len(scores), values.shape
    m, l, acc = np.full(rows, -np.inf), np.zeros(rows), np.zeros((rows, d))
    for i, row in enumerate(np.asarray(scores, np.float64).tolist()):
        m[i] = max(row, default=-math.inf)
        for j in range(n):
            weight = 0.0 if row[j] == -math.inf else math.exp(row[j] - m[i])
            l[i] += weight
            for c in range(d):
                acc[i, c] += weight * float(values[j, c])
    return m, l, acc


def sees(position, key, causal, window):  # -> bool
    """May the query at this position look at this key?"""
    return (not causal or key <= position) and (window is None or position - key < window)


def visible(n_q, n_k, causal, window, offset):  # -> (n_q, n_k) bool
    return np.array([[sees(offset + i, j, causal, window) for j in range(n_k)] for i in range(n_q)], bool).reshape(n_q, n_k)


def attention(q, k, v, causal=True, window=None, offset=None):
    """(n_q, heads, d), (n_k, kv_heads, d) twice -> (n_q, heads, d): each query against each key it may see, one by one."""
    return attention_and_lse(q, k, v, causal, window, offset)[0]


def attention_and_lse(q, k, v, causal=True, window=None, offset=None):
    """... and log Σ exp of each query's scaled scores: (n_q, heads, d), (n_q, heads)."""
    n_q, heads, d = q.shape
    n_k, kv_heads, _ = k.shape
    offset = n_k - n_q if offset is None else offset
    out, lse = np.zeros((n_q, heads, d)), np.full((n_q, heads), -np.inf)
    q, k, v = (np.asarray(x, np.float64).tolist() for x in (q, k, v))
    for h in range(heads):
        g = h * kv_heads // heads
        for i in range(n_q):
            visible = [j for j in range(n_k) if sees(offset + i, j, causal, window)]
            scores = [sum(a * b for a, b in zip(q[i][h], k[j][g], strict=True)) / math.sqrt(d) for j in visible]
            if not scores:
                continue
            lse[i, h] = max(scores) + math.log(sum(math.exp(s - max(scores)) for s in scores))
            for j, weight in zip(visible, softmax(scores), strict=True):
                for c in range(d):
                    out[i, h, c] += weight * v[j][g][c]
    return out, lse


def gradient(loss, x, step=1e-4):  # (array -> float), array -> array like x
    """The derivative of a number by each entry of x: a little up, a little down, everything else as it was."""
    out = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        up, down = (np.array(x, np.float64) for _ in range(2))
        up[index] += step
        down[index] -= step
        out[index] = (loss(up) - loss(down)) / (2 * step)
    return out


def attention_gradients(q, k, v, d_out, **mask):  # -> dq, dk, dv of Σ d_out ∘ attention(q, k, v)
    d_out = np.asarray(d_out, np.float64)
    return (
        gradient(lambda x: float((d_out * attention(x, k, v, **mask)).sum()), q),
        gradient(lambda x: float((d_out * attention(q, x, v, **mask)).sum()), k),
        gradient(lambda x: float((d_out * attention(q, k, x, **mask)).sum()), v),
    )


def tile_gradients(q, k, v, scores, d_out, tile):
    """(r, d), (n, d), (n, d), (r, n), (r, d), slice of the n keys -> (r, d), (c, d), (c, d)

    How the loss Σ d_out ∘ softmax(scores) v moves with the scores and values of one tile's keys; the scores' part carried on
    to q and k as if scores = q kᵀ.
    """
    r, d, n = *q.shape, len(k)

    def loss(scores, v):
        total = 0.0
        for row, wanted in zip(scores.tolist(), np.asarray(d_out, np.float64).tolist(), strict=True):
            for j, weight in enumerate(softmax(row)):
                total += sum(weight * float(v[j, c]) * wanted[c] for c in range(d))
        return total

    ds = gradient(lambda x: loss(x, v), scores)
    dq, dk = np.zeros((r, d)), np.zeros((n, d))
    for i in range(r):
        for j in range(n)[tile]:
            for c in range(d):
                dq[i, c] += ds[i, j] * float(k[j, c])
                dk[j, c] += ds[i, j] * float(q[i, c])
    return dq, dk[tile], gradient(lambda x: loss(np.asarray(scores, np.float64), x), v)[tile]


def top_p(probabilities, p):  # [float] -> set of indices
    """Take tokens from the likeliest down until they reach p together."""
    kept, total = set(), 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: (-probabilities[i], i)):
        if total >= p:
            break
        kept.add(i)
        total += probabilities[i]
    return kept
