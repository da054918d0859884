"""What comes out of a budget, a grid, packed codes, a search or a rotation after a typical mistake: see mistakes.py.

Right answers stand here too, in plain loops over Python's numbers, apart from the code under test.
"""

import numpy as np

# --- 07.1 ---------------------------------------------------------------------------------------------------------------


def budget(config, memory, tokens, utilization, kv_bits):  # -> bits a weight
    cache = tokens * 2 * config.n_layers * config.n_kv_heads * config.d_head * kv_bits / 8
    return max(0.0, (memory * utilization - cache) * 8 / config.parameters())


def budget_mistakes(config, memory, tokens, utilization, kv_bits):  # -> {words: bits a weight}
    def of(left, parameters=None):
        return max(0.0, left * 8 / (parameters or config.parameters()))

    cache = tokens * 2 * config.n_layers * config.n_kv_heads * config.d_head * kv_bits / 8
    heads = cache * config.n_heads / config.n_kv_heads
    return {
        "the cache was not taken off": of(memory * utilization),
        "all of the memory was used: only the share `utilization` may be": of(memory - cache),
        "the share was taken of what the cache leaves: it is a share of the memory": of((memory - cache) * utilization),
        "bytes were not made bits": (memory * utilization - cache) / config.parameters(),
        "the bits of the cache were taken for bytes": of(memory * utilization - 8 * cache),
        "the cache was counted in 16 bits, whatever kv_bits says": of(memory * utilization - cache * 16 / kv_bits),
        "the cache was counted for all query heads: only key and value heads are cached": of(memory * utilization - heads),
        "one cache of one token was taken off": of(memory * utilization - cache / max(1, tokens)),
        "only the matrices were counted: the embedding takes memory too": of(
            memory * utilization - cache, config.matrix_parameters()),
    }  # fmt: skip


# --- 07.2 and 07.3 ------------------------------------------------------------------------------------------------------


def spans(weights, bits, group, symmetric):  # (rows, columns) -> scales, minima: (rows, groups) float64, float16's values
    scales, minima = [], []
    for row in weights.tolist():
        parts = [row[at : at + group] for at in range(0, len(row), group)]
        if symmetric:
            s = [np.float16(np.float32(2 * max(map(abs, part))) / np.float32(2**bits - 1)) for part in parts]
            m = [np.float16(-(2 ** (bits - 1)) * float(each)) for each in s]
        else:
            s = [np.float16(np.float32(max(part) - min(part)) / np.float32(2**bits - 1)) for part in parts]
            m = [np.float16(min(part)) for part in parts]
        scales.append([float(x) for x in s])
        minima.append([float(x) for x in m])
    return np.array(scales), np.array(minima)


def span_mistakes(weights, bits, group, symmetric):  # -> {words: scales}, {words: minima}
    w = weights.astype(np.float64).reshape(len(weights), -1, group)
    absmax, low, high = np.abs(w).max(2), w.min(2), w.max(2)
    top, half, range_ = 2**bits - 1, 2 ** (bits - 1), 2 * absmax if symmetric else high - low
    scale = range_ / top
    scales = {
        f"the range was cut into {top + 1} steps: between {top + 1} levels lie {top}": range_ / (top + 1),
        "the grid of the other kind was spanned": (high - low if symmetric else 2 * absmax) / top,
        "the range was the largest magnitude alone": absmax / top,
        "the range was the largest value, not the largest magnitude": 2 * high / top,
        f"the largest magnitude was given {half - 1} steps: it has half of {top}": absmax / max(1, half - 1),
        "one scale was made for a row: each group has one": np.repeat(range_.max(1, keepdims=True), w.shape[1], 1) / top,
        "one scale was made for the matrix: each group of a row has one": np.full_like(range_, range_.max()) / top,
        "scales were made for groups of rows: a group is neighbours in one row": along_rows(w, symmetric) / top,
    }
    minima = {
        "the minimum has lost its sign": half * scale if symmetric else -low,
        "the minimum is 0": 0 * low,
        f"zero was given code {half - 1}: it is {half}": -(half - 1) * scale,
        "the minimum is minus the largest magnitude: it is a whole number of steps below zero": -absmax,
        "the smallest weight was taken, as on the asymmetric grid": low,
        "the minimum is a multiple of the scale: on the asymmetric grid it is the smallest weight": np.rint(
            low / np.where(scale == 0, 1, scale)) * scale,
        "all groups of a row got the smallest weight of the row": np.repeat(low.min(1, keepdims=True), w.shape[1], 1),
        "the minimum was counted in steps, not in the weights' own units": low / np.where(scale == 0, 1, scale),
        "zero lies in the middle of the codes, as on the symmetric grid": -half * scale,
    }  # fmt: skip
    return scales, minima


def along_rows(w, symmetric):
    each = 2 * np.abs(w).max(0).max(-1) if symmetric else w.max(0).max(-1) - w.min(0).min(-1)
    return np.broadcast_to(each, w.shape[:2])


def codes(weights, scales, minima, bits):  # (rows, columns), (rows, groups) twice -> (rows, columns) int
    group, found = weights.shape[1] // scales.shape[1], np.zeros(weights.shape, int)
    for row, column in np.ndindex(weights.shape):
        s, m = float(scales[row, column // group]), float(minima[row, column // group])
        levels = [s * code + m for code in range(2**bits)]
        found[row, column] = min(range(2**bits), key=lambda code: abs(levels[code] - float(weights[row, column])))
    return found


def code_mistakes(weights, scales, minima, bits):  # -> {words: codes}
    group, top = weights.shape[1] // scales.shape[1], 2**bits - 1
    s, m = (np.repeat(a.astype(np.float64), group, 1) for a in (scales, minima))
    with np.errstate(all="ignore"):
        x = (weights - m) / np.where(s == 0, np.inf, s)
        ways = {
            "the quotient was cut, not rounded": np.floor(x),
            "the quotient was rounded up": np.ceil(x),
            "the minimum was added: code 0 stands for the minimum, so it is taken off": np.rint((weights + m) / s),
            "the minimum was not taken off": np.rint(weights / s),
            "the minimum was taken off after the division": np.rint(weights / s - m),
            "weights were multiplied by the scale, not divided": np.rint((weights - m) * s),
            "codes are counted from the top": top - np.clip(np.rint(x), 0, top),
            "all weights of a row got the scale of its first group": np.rint((weights - m) / s[:, :1]),
        }
        unlimited = np.nan_to_num(np.rint(x))
        found = {said: np.clip(np.nan_to_num(value), 0, top) for said, value in ways.items()}
    return {
        f"codes were not limited to {top} and wrap in a byte": unlimited.astype(int) % 256,
        f"codes beyond {top} wrap around to the lowest level": unlimited.astype(int) % (top + 1),
        f"codes were cut at {top + 1}, which needs a bit more": np.clip(unlimited, 0, top + 1),
        f"codes were cut at {top - 1}": np.clip(unlimited, 0, top - 1),
        **found,
    }


# --- 07.4 ---------------------------------------------------------------------------------------------------------------


def stream(codes, bits):  # (n, count) -> (n, bytes) int: a row is one whole number, its lowest byte first
    rows = [sum(int(code) << bits * i for i, code in enumerate(row)) for row in codes]
    return np.array([list(row.to_bytes(-(-codes.shape[1] * bits // 8), "little")) for row in rows])


def stream_mistakes(codes, bits):  # -> {words: (n, bytes)}
    single = codes[:, :, None] >> np.arange(bits) & 1
    n, whole = len(codes), stream(codes, bits)

    def bytes_of(a, order="little"):
        return np.packbits(a.reshape(n, -1).astype(np.uint8), axis=1, bitorder=order).astype(int)

    per = 8 // bits
    lonely = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per))).astype(int).reshape(n, -1, per)
    return {
        "the first code has the highest bits of a byte: it has the lowest": bytes_of(single[:, :, ::-1], "big"),
        "the bits of each code are reversed": bytes_of(single[:, :, ::-1]),
        "the bits of each byte are reversed": bytes_of(single, "big"),
        "a code that does not fit began a new byte: its bits go on in the next one": (lonely << bits * np.arange(per)).sum(2),
        "first came the lowest bit of all codes, then the next": bytes_of(single.swapaxes(1, 2)),
        "all rows were one stream: each row begins a byte of its own": np.packbits(
            single.reshape(-1).astype(np.uint8), bitorder="little").astype(int),
        "the codes of a row were packed from its end": stream(codes[:, ::-1], bits),
        "each byte holds a single code": codes.astype(int),
        "the bytes of a row are in the wrong order: the lowest comes first": whole[:, ::-1],
    }  # fmt: skip


# --- 07.5 ---------------------------------------------------------------------------------------------------------------


def obq(weights, hessian, bits, group, damping=0.01, update=None):  # -> (rows, columns) int: one column after another
    """Optimal Brain Quantization with an explicit inverse of what is left of H, column by column; float64."""
    update = update or (lambda lost, inverse: lost[:, None] / inverse[0, 0] * inverse[0])
    left, found = weights.astype(np.float64).copy(), np.zeros(weights.shape, int)
    damped = hessian + damping * np.diagonal(hessian).mean() * np.eye(len(hessian))
    for j in range(weights.shape[1]):
        if j % group == 0:
            scales, minima = spans(left[:, j : j + group].astype(np.float32), bits, group, False)
        x = (left[:, j].astype(np.float32) - minima[:, 0]) / np.where(scales[:, 0] == 0, np.inf, scales[:, 0])
        found[:, j] = np.clip(np.rint(x), 0, 2**bits - 1)
        lost = left[:, j] - (found[:, j] * scales[:, 0] + minima[:, 0])
        left[:, j:] -= update(lost, np.linalg.inv(damped[j:, j:]))
    return found


def obq_mistakes(weights, hessian, bits, group):  # -> {words: codes}
    def none(lost, inverse):
        return 0 * lost[:, None] * inverse[0]

    def turned(lost, inverse):
        return -lost[:, None] / inverse[0, 0] * inverse[0]

    def not_divided(lost, inverse):
        return lost[:, None] * inverse[0] / inverse[0, 0] ** 0.5

    def divided_twice(lost, inverse):
        return lost[:, None] * inverse[0] / inverse[0, 0] ** 1.5

    def next_alone(lost, inverse):
        row = np.where(np.arange(len(inverse)) < 2, inverse[0], 0)
        return lost[:, None] / inverse[0, 0] * row

    def all_alike(lost, inverse):
        return lost[:, None] * np.ones(len(inverse))

    given = weights, hessian, bits, group
    return {
        "no error was handed on: that is rounding to nearest": obq(*given, update=none),
        "the errors were added to the columns behind: they are taken off": obq(*given, update=turned),
        "the error was not divided by U_jj before it was handed on": obq(*given, update=not_divided),
        "the error was divided by U_jj twice": obq(*given, update=divided_twice),
        "only the next column got the error: all behind do": obq(*given, update=next_alone),
        "all columns got the whole error, whatever U says": obq(*given, update=all_alike),
    }


# --- 07.6 ---------------------------------------------------------------------------------------------------------------


def rounded(weights, bits, group):  # (rows, columns) -> the weights that come back from a grid, float64
    scales, minima = spans(weights.astype(np.float32), bits, group, False)
    s, m = (np.repeat(a, group, 1) for a in (scales, minima))
    return np.clip(np.rint((weights.astype(np.float32) - m) / np.where(s == 0, np.inf, s)), 0, 2**bits - 1) * s + m


def tried(magnitudes, steps):  # -> [(columns,)]: the scales of each alpha
    a = np.maximum(magnitudes.astype(np.float64) / magnitudes.max(), 1e-4)
    found = [a ** (i / steps) for i in range(steps + 1)]
    return [(s / np.sqrt(s.max() * s.min())).astype(np.float32) for s in found]


def search(matrices, magnitudes, inputs, bits, group, steps, error=None, weigh=sum):  # -> (columns,) scales
    def output_error(w, s):
        return np.square(inputs.astype(np.float64) @ (w - rounded(w * s, bits, group) / s).T).sum()

    ways = tried(magnitudes, steps)
    errors = [weigh([(error or output_error)(w, s) for w in matrices]) for s in ways]
    return ways[int(np.argmin(errors))]


def search_mistakes(matrices, magnitudes, inputs, bits, group, steps):  # -> {words: (columns,) scales}
    given = (magnitudes, inputs, bits, group, steps)

    def not_undone(w, s):
        return np.square(inputs.astype(np.float64) @ (w - rounded(w * s, bits, group)).T).sum()

    def of_weights(w, s):
        return np.square(w - rounded(w * s, bits, group) / s).sum()

    def of_scaled(w, s):
        return np.square(inputs.astype(np.float64) @ (w * s - rounded(w * s, bits, group)).T).sum()

    ways = tried(magnitudes, steps)
    slips = {
        "the scales were not divided out again before the error was taken": search(matrices, *given, not_undone),
        "the error of the weights decided: it is that of the outputs that counts": search(matrices, *given, of_weights),
        "the error of scaled weights was taken with inputs that were not divided": search(matrices, *given, of_scaled),
        "only the first matrix decided: all that share the inputs do": search(matrices[:1], *given),
        "only the last matrix decided: all that share the inputs do": search(matrices[-1:], *given),
        "the largest error was kept": search(matrices, *given, None, lambda errors: -sum(errors)),
        "the last α was kept, not the best": ways[-1],
        "the first α was kept, not the best": ways[0],
    }
    same = {}  # two mistakes may end at one α: then both are named
    for said, scales in slips.items():
        same.setdefault(scales.tobytes(), []).append(said)
    return {", or ".join(said): np.frombuffer(scales, np.float32) for scales, said in same.items()}


# --- 07.7 ---------------------------------------------------------------------------------------------------------------


def turned(weights, gain, r, writes):  # (rows, columns), (columns,), (d, d) -> (rows, columns)
    w = weights.astype(np.float64)
    return r.T @ w if writes else (w * gain) @ r


def turned_mistakes(weights, gain, r, writes):  # -> {words: (rows, columns)}
    w, g = weights.astype(np.float64), gain.astype(np.float64)
    square = w.shape[0] == w.shape[1]
    slips = {"it was left as it is": w}
    if writes:
        slips["R stands where its transpose belongs: outputs are turned by h (Rᵀ W)ᵀ = (h Wᵀ) R"] = r @ w
        if square:
            slips |= {"inputs were turned: this matrix writes to the stream, so its outputs are": w @ r,
                      "inputs were turned back: this matrix writes to the stream": w @ r.T}  # fmt: skip
            slips["a gain was folded in: no norm stands before this matrix"] = r.T @ (w * g)
        return slips
    slips |= {
        "the gain of the norm before it was not folded in": w @ r,
        "the gain came after the rotation: it belongs to the channels as they were": (w @ r) * g,
        "W was multiplied by the transpose of R": (w * g) @ r.T,
        "weights were divided by the gain": (w / g) @ r,
        "the gain was folded in twice": (w * g * g) @ r,
    }
    if square:
        slips["outputs were turned: this matrix reads the stream, so its inputs are"] = r.T @ (w * g)
        slips["the gain was multiplied into rows: it belongs to the columns"] = (w * g[:, None]) @ r
    return slips
