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
            visible = [
                j for j in range(n_k) if (not causal or j <= offset + i) and (window is None or j > offset + i - window)
            ]
            scores = [sum(a * b for a, b in zip(q[i][h], k[j][g], strict=True)) / math.sqrt(d) for j in visible]
            if not scores:
                continue
            lse[i, h] = max(scores) + math.log(sum(math.exp(s - max(scores)) for s in scores))
            for j, weight in zip(visible, softmax(scores), strict=True):
                for c in range(d):
                    out[i, h, c] += weight * v[j][g][c]
    return out, lse


def top_p(probabilities, p):  # [float] -> set of indices
    """Take tokens from the likeliest down until they reach p together."""
    kept, total = set(), 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: (-probabilities[i], i)):
        if total >= p:
            break
        kept.add(i)
        total += probabilities[i]
    return kept
