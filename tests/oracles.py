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


def attention(q, k, v, causal=True):  # (n_q, heads, d), (n_k, kv_heads, d), (n_k, kv_heads, d) -> (n_q, heads, d)
    """Each query against each key it may see, one number at a time."""
    n_q, heads, d = q.shape
    n_k, kv_heads, _ = k.shape
    out = np.zeros((n_q, heads, d))
    for h in range(heads):
        g = h * kv_heads // heads
        for i in range(n_q):
            visible = range(n_k - n_q + i + 1) if causal else range(n_k)
            scores = [sum(float(q[i, h, c]) * float(k[j, g, c]) for c in range(d)) / math.sqrt(d) for j in visible]
            for j, weight in zip(visible, softmax(scores) if scores else [], strict=True):
                for c in range(d):
                    out[i, h, c] += weight * float(v[j, g, c])
    return out


def top_p(probabilities, p):  # [float] -> set of indices
    """Take tokens from the likeliest down until they reach p together."""
    kept, total = set(), 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: (-probabilities[i], i)):
        if total >= p:
            break
        kept.add(i)
        total += probabilities[i]
    return kept
