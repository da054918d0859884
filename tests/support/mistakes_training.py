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


def thin(x, a, b, alpha):  # -> (T, d_out) in float64, (α/r) (x Aᵀ) Bᵀ in plain loops over the middle
    y = np.zeros((len(x), len(b)))
    for r in range(len(a)):
        y += alpha / len(a) * np.outer((x.astype(np.float64) * a[r]).sum(axis=1), b[:, r])
    return y


def lora_gradients(x, a, b, alpha, d_y):  # -> a {words: array} for dx, dA and dB, each from ΔW's own gradient
    rank, d_weight = len(a), d_y.T @ x  # (d_out, d_in), which the code under test must not make
    d_x, d_a, d_b = d_y @ b @ a, b.T @ d_weight, d_weight @ a.T
    scale = alpha / rank
    ways = []
    for whole, name in ((d_x, "dx"), (d_a, "dA"), (d_b, "dB")):
        ways.append({
            f"the scale α/r is left out of {name}: it stands in front of the whole thin way": whole,
            f"the scale α/r is applied twice to {name}: forward applied it once": scale**2 * whole,
            f"α is not divided by the rank in {name}": alpha * whole,
            f"α is divided by d_out, the length of B, in {name}: the rank is that of A": alpha / len(b) * whole,
            f"{name} is the mean over tokens: it is the sum, since dy holds the mean already": scale * whole / len(x),
            f"{name} has the wrong sign": -scale * whole,
        })  # fmt: skip
    ways[0] |= {"dx is only that of x Aᵀ, summed: pass it on through A": np.repeat((d_y @ b).sum(1)[:, None], x.shape[1], 1)}
    ways[2] |= {"dB is made with x Aᵀ of the wrong scale, 1/r": d_b / rank}
    return ways


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


def activation_mistakes(c, batch, length, arrays, recompute):  # {name: nbytes} of one layer's arrays -> {words: bytes}
    one, x, layers = sum(arrays.values()), arrays["x"], c.n_layers
    wide, narrow = arrays["q"], arrays["k"]

    def of(layer):  # the bytes of one layer -> of all
        return (layers - 1) * x + layer if recompute else layers * layer

    def without(*names):
        return of(one - sum(arrays.get(name, 0) for name in names))

    found = {
        "numbers are counted, not bytes: a float32 has 4": of(one) / 4,
        "a number takes 2 bytes: training here is in float32": of(one) / 2,
        "the batch is left out": of(one) / batch,
        "the length is left out: every token keeps its own row": of(one) / length,
        "k and v are counted as wide as q: they have KV heads": of(one + 2 * (wide - narrow)),
        "q and k from before their norm are left out": without("q_raw", "k_raw"),
        "log-sum-exp is left out: a number a head and token": without("lse"),
        "the output of attention is left out": without("out"),
        "the inputs of matrices, h, h_m and act, are left out": without("h", "h_m", "act"),
        "act is left out": without("act"),
        "gate or up is left out: both halves of SwiGLU wait": without("gate"),
        "m is left out: both halves of a layer begin with a norm, which needs its input": without("m"),
        "one d_model is left out": of(one - x),
        "all inputs of matrices are kept, those of frozen ones too": of(
            one + (0 if "h" in arrays else x) + (0 if "h_m" in arrays else x) + (0 if "act" in arrays else arrays["gate"])),
        "scores of length × length are kept for each head: attention by tiles keeps none": of(
            one + 4 * batch * c.n_heads * length * length),
    }  # fmt: skip
    other = {
        "every layer keeps all: recomputed, the others keep their input only": layers * one,
        "the arrays of the one layer are left out": layers * x,
        "the inputs of the others are left out": one,
        "x of the layer that is run again is counted twice": layers * x + one,
    }
    plain = {"only one layer keeps all: without recomputing, every layer does": (layers - 1) * x + one, "one layer counts": one}
    return found | (other if recompute else plain)


# --- 16.7 ---------------------------------------------------------------------------------------------------------------


def blocks_of(weights):  # -> (blocks, 64), in plain loops over one long row
    flat = [float(w) for row in weights for w in row]
    flat += [0.0] * (-len(flat) % 64)
    return np.array([flat[at : at + 64] for at in range(0, len(flat), 64)])


def coded(x):  # (...) about -1 … 1 -> the number of the nearest of the paper's levels
    return np.abs(np.asarray(x, np.float64)[..., None] - np.array(NF4)).argmin(axis=-1)


def blockwise(weights):  # -> codes (blocks, 64), absmax (blocks,)
    blocks = blocks_of(weights)
    absmax = np.array([max(abs(w) for w in block) for block in blocks])
    return coded(blocks / np.where(absmax == 0, 1, absmax)[:, None]), absmax


def paired(codes):  # (blocks, 64) -> (blocks, 32), the first of two in the high half
    return codes[:, 0::2] * 16 + codes[:, 1::2]


def blockwise_mistakes(weights):  # -> {words: (blocks, 32)}
    codes, absmax = blockwise(weights)
    blocks, top = blocks_of(weights), np.where(absmax == 0, 1, absmax)[:, None]
    largest = blocks.max(axis=1, keepdims=True)
    return {
        "the first of two codes is put into the low half of the byte: it belongs into the high one": codes[:, 0::2]
        + codes[:, 1::2] * 16,
        "weights are not divided by the absmax of their block": paired(coded(np.clip(blocks, -1, 1))),
        "all blocks are divided by the largest magnitude of the matrix": paired(coded(blocks / absmax.max())),
        "blocks are divided by their largest weight, not by the largest magnitude": paired(
            coded(np.clip(blocks / np.where(largest == 0, 1, largest), -1, 1))),
        "byte j holds weights j and j + 32: it holds 2j and 2j + 1": codes[:, :32] * 16 + codes[:, 32:],
        "blocks of zeros got code 0, which is level -1: 0 / 0 is no number": np.where(absmax[:, None] == 0, 0, paired(codes)),
        "weights are multiplied by the absmax": paired(coded(np.clip(blocks * top, -1, 1))),
    }  # fmt: skip


# --- levels of NF4 ------------------------------------------------------------------------------------------------------

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
