"""What comes out of a gradient, a step of AdamW, an adapter or sixteen levels after a typical mistake: see mistakes.py."""

import math
from statistics import NormalDist

import numpy as np

# --- 16.1 ---------------------------------------------------------------------------------------------------------------


def cross_entropy(logits, targets, piece):  # (n, vocab), (n,) -> (n, vocab), {words: (n, vocab)}
    """The gradient, and what people take for it. piece: rows that are passed over at a time."""
    z = logits.astype(np.float64)
    e = np.exp(z - z.max(1, keepdims=True))
    p, came, counts = e / e.sum(1, keepdims=True), np.zeros(z.shape), targets != -1
    came[counts, targets[counts]] = 1
    last, columns, n = came.copy(), np.zeros(z.shape), counts.sum()
    last[~counts, -1] = 1
    columns[:, targets[counts]] = 1
    starts = np.arange(len(z)) // piece * piece
    own = np.array([max(1, counts[i : i + piece].sum()) for i in starts])[:, None]
    right, kept = np.where(counts[:, None], (p - came) / n, 0), counts[:, None]
    return right, {
        "each piece of rows was divided by its own count: n is that of the whole batch": kept * (p - came) / own,
        "rows whose target is IGNORE got a gradient: they count for nothing": (p - came) / n,
        "a target of -1 was taken for an index, and found the last token": (p - last) / n,
        "it was divided by all rows, those to be ignored among them": kept * (p - came) / len(z),
        "1 was taken off the target's probability before the row became probabilities": kept * (e - came) / e.sum(1)[:, None] / n,
        "exp(z - top) was not divided by the sum of its row": kept * (e - came) / n,
        "nothing was taken off where the target is: p alone": kept * p / n,
        "the whole column of each target was pushed up: it is one entry a row": kept * (p - columns) / n,
        "it was not divided by n: the loss is a mean": kept * (p - came),
        "1 was taken off where 1/n belongs": kept * p / n - came,
        "the sign is turned: the gradient is p - onehot": -right,
        "a new array was made: dz must be written into p, where the logits lay": e,
        "only the targets' entries were changed": e - came / n,
    }


# --- 16.2 ---------------------------------------------------------------------------------------------------------------


def rms_norm_d_x(x, weight, eps, d_y):  # -> {words: like x}
    x, weight, d_y = (a.astype(np.float64) for a in (x, weight, d_y))
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    x_hat, g = x * r, d_y * weight

    def back(g, along=None, inner=None, axis=-1):
        along, inner = x_hat if along is None else along, g * x_hat if inner is None else inner
        return r * (g - along * inner.mean(axis, keepdims=True))

    return {
        "the mean goes over all vectors: each has its own": back(g, axis=None),
        "the mean goes over the tokens: it belongs to a vector's components": back(g, axis=0),
        "g was summed with x̂, not averaged": r * (g - x_hat * (g * x_hat).sum(-1, keepdims=True)),
        "the second term was left out: r depends on x as well": r * g,
        "the second term was added: it is taken off": r * (g + x_hat * (g * x_hat).mean(-1, keepdims=True)),
        "the second term was taken along x: along x̂": back(g, along=x),
        "the mean was that of g ∘ x: of g ∘ x̂": back(g, inner=g * x),
        "the weight was left out: g = dy ∘ w": back(d_y),
        "the mean was that of dy ∘ x̂: the weight belongs in it": back(g, inner=d_y * x_hat),
        "the weight was multiplied last: it belongs in g, before the mean": weight * back(d_y),
        "the mean of g was taken off: that is LayerNorm's": back(g) - r * g.mean(-1, keepdims=True),
        "it was not multiplied by r": back(g) / r,
        "it was divided by r": back(g) / r**2,
    }  # fmt: skip


def rms_norm_d_weight(x, weight, eps, d_y):  # -> {words: (d,)}
    x, weight, d_y = (a.astype(np.float64) for a in (x, weight, d_y))
    r, d = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps), x.shape[-1]
    rows = [a.reshape(-1, d) for a in (d_y * x * r, d_y * x, d_y * weight * x * r, d_y)]
    return {
        "the tokens were averaged: each adds its share": rows[0].mean(0),
        "only the last token was counted": rows[0][-1],
        "dy was multiplied by x: by x̂, what the weight was multiplied by": rows[1].sum(0),
        "the weight was multiplied in: y = w ∘ x̂ is linear in w, so its gradient does not see w": rows[2].sum(0),
        "dy was summed alone: that is the gradient of a bias": rows[3].sum(0),
    }


# --- 16.3 ---------------------------------------------------------------------------------------------------------------


def adamw(w, gradients, rates, decay, beta1, beta2, epsilon, how=""):  # arrays -> (w, m, v) after all steps
    """AdamW in float64, number by number, straight from algorithm 2 of the paper; or with a mistake (how)."""
    after = [_adamw(*one, rates, decay, beta1, beta2, epsilon, how) for one in zip(
        np.ravel(w).tolist(), np.reshape(gradients, (len(gradients), -1)).T.tolist(), strict=True)]  # fmt: skip
    return [np.array(a).reshape(np.shape(w)) for a in zip(*after, strict=True)]


def _adamw(w, gradients, rates, decay, beta1, beta2, epsilon, how):  # float, [float], [float] -> w, m, v
    m = v = 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        if how == "L2":
            g = g + decay * w
        if how == "betas swapped":
            beta1, beta2 = beta2, beta1
        m = g + beta1 * m if how == "m sums" else beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (abs(g) if how == "no square" else m * m if how == "m squared" else g * g)
        if how == "betas swapped":
            beta1, beta2 = beta2, beta1
        scale1 = 1 if how in ("no correction", "m uncorrected") else 1 - beta1**t
        scale2 = 1 if how in ("no correction", "v uncorrected") else 1 - beta2**t
        if how == "first step's correction":
            scale1, scale2 = 1 - beta1, 1 - beta2
        if how == "epsilon under the root":
            root = math.sqrt(v / scale2 + epsilon)
        elif how == "epsilon corrected":
            root = (math.sqrt(v) + epsilon) / math.sqrt(scale2)
        elif how == "correction after the root":
            root = math.sqrt(v) / scale2 + epsilon
        elif how == "no root":
            root = v / scale2 + epsilon
        else:
            root = math.sqrt(v / scale2) + epsilon
        step = -rate * m / scale1 / root
        shrink = {"L2": 0, "no decay": 0, "decay without rate": decay, "decay grows": -rate * decay}.get(how, rate * decay)
        if how == "moments corrected for good":
            m, v = m / scale1, v / scale2
        w = w - (w + step if how == "decay last" else w) * shrink + (-step if how == "uphill" else step)
    return w, m, v


WAYS = {
    "m is divided by 1 - β₁ and v by 1 - β₂ at every step: the powers grow with t": "first step's correction",
    "m and v are used as they are: both start at 0 and are too small at first, by 1 - βᵗ": "no correction",
    "v is used as it is: it too starts at 0, divide it by 1 - β₂ᵗ": "v uncorrected",
    "m is used as it is: it starts at 0, divide it by 1 - β₁ᵗ": "m uncorrected",
    "1 - β₂ᵗ divides the root: it belongs under it, with v": "correction after the root",
    "ε is added under the root: it belongs after it": "epsilon under the root",
    "ε is divided by √(1 - β₂ᵗ) too: it is added to the corrected root": "epsilon corrected",
    "no root is taken of v": "no root",
    "v averages |g|: it is the mean of g²": "no square",
    "v averages m²: it is the mean of g²": "m squared",
    "m and v were divided by 1 - βᵗ in place: what is kept is m and v, only the step takes m̂ and v̂": "moments corrected for good",
    "m sums gradients: it is their running mean, (1 - β₁) g of each": "m sums",
    "β₁ and β₂ are swapped": "betas swapped",
    "decay is added to the gradient (L2), and divided by √v with it": "L2",
    "w is not decayed": "no decay",
    "the decay is not multiplied by the rate": "decay without rate",
    "the decay makes w larger": "decay grows",
    "the decay is taken after the step: of the weight as it was before": "decay last",
    "the step goes uphill: it is taken off w": "uphill",
}


def adamw_mistakes(which, *inputs):  # 0, 1 or 2: w, m or v -> {words: array}
    with np.errstate(all="ignore"):
        found = {said: adamw(*inputs, how)[which] for said, how in WAYS.items()}
    anew = {"a new array was made of it: the optimizer keeps the old one, so change that (m *= …)": np.zeros(np.shape(inputs[0]))}
    return found if which == 0 else found | anew


# --- 16.4 and 16.5 ------------------------------------------------------------------------------------------------------


def lora(x, weight, a, b, alpha):  # -> y in float64, {words: y}
    x, weight, a, b = (array.astype(np.float64) for array in (x, weight, a, b))
    base, thin, rank = x @ weight.T, x @ a.T @ b.T, len(a)
    return base + alpha / rank * thin, {
        "α was not divided by the rank": base + alpha * thin,
        "α was divided by d_out, the length of B: the rank is that of A": base + alpha / len(b) * thin,
        "α was divided by d_in: the rank is the number of A's rows": base + alpha / a.shape[1] * thin,
        "r/α was multiplied: it is α/r": base + rank / alpha * thin,
        "α was divided by √r": base + alpha / rank**0.5 * thin,
        "the scale α/r was left out": base + thin,
        "the scale was applied twice": base + (alpha / rank) ** 2 * thin,
        "the base was scaled too: only what is added to it is": alpha / rank * (base + thin),
        "the base was left out": alpha / rank * thin,
        "the thin matrices were left out": base,
        "the thin product was taken off": base - alpha / rank * thin,
    }


def merged(weight, a, b, alpha):  # -> W + ΔW in float64, {words: (d_out, d_in)}
    weight, a, b = (array.astype(np.float64) for array in (weight, a, b))
    change, rank = b @ a, len(a)
    return weight + alpha / rank * change, {
        "α was not divided by the rank": weight + alpha * change,
        "the scale α/r was left out: unmerged it is there": weight + change,
        "the adapter alone was kept: it is added to W": alpha / rank * change,
        "it was merged twice": weight + 2 * alpha / rank * change,
        "it was taken off: that is unmerge": weight - alpha / rank * change,
        "the base came back as it was": weight,
    }


# --- 16.6 ---------------------------------------------------------------------------------------------------------------

# Dettmers et al. 2023, appendix E
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)  # fmt: skip


def level_mistakes():  # -> {words: (16,)}
    edge = (1 / 32 + 1 / 30) / 2

    def quantiles(*probabilities, divide=True):
        found = np.array([NormalDist().inv_cdf(float(p)) for p in probabilities])
        return found / found.max() if divide else found

    def two_sides(edge, below=8, divide=True):
        low, high = np.linspace(edge, 0.5, below), np.linspace(0.5, 1 - edge, 17 - below)
        return quantiles(*low, *high[1:], divide=divide)

    shares, normal = (np.arange(16) + 0.5) / 16, NormalDist()
    between = normal.cdf((normal.inv_cdf(1 / 32) + normal.inv_cdf(1 / 30)) / 2)
    low, high = np.linspace(edge, 0.5, 8), np.linspace(0.5, 1 - edge, 9)
    return {
        "there are eight levels below 0 and seven above: it is the other way round": two_sides(edge, 9),
        "the quantiles were not divided by the largest": two_sides(edge, divide=False),
        "the levels are evenly spaced: quantiles of the normal distribution are not": np.linspace(-1, 1, 16),
        "levels lie in the middle of sixteen equal shares, and none is 0: space each side of 1/2 by itself": quantiles(*shares),
        "one row of sixteen probabilities was used, and none is 1/2: each side is spaced by itself": quantiles(
            *np.linspace(edge, 1 - edge, 16)),
        "the mean is taken of the quantiles of 1/32 and 1/30: it is that of the probabilities": two_sides(between),
        "the edge is 1/32: it is the mean of 1/32 and 1/30": two_sides(1 / 32),
        "the edge is 1/30: it is the mean of 1/32 and 1/30": two_sides(1 / 30),
        "probabilities were used as levels: take their quantiles": (np.array([*low, *high[1:]]) - 0.5) / (high[-1] - 0.5),
        "the outermost probabilities are as good as 0 and 1, whose quantiles are infinite": two_sides(1e-16),
    }  # fmt: skip


def rounding_error(levels, weights):  # (levels,), (blocks, 64) -> float
    """Mean square of what rounding changes, where each block is divided by its largest magnitude."""
    scale = np.abs(weights).max(axis=1, keepdims=True)
    x = (weights / scale)[:, :, None]
    nearest = np.take(levels, np.abs(x - levels).argmin(axis=2))
    return float(np.mean((nearest * scale - weights) ** 2))
