"""What comes out of the exercises of lesson 08, right and with the slips that people make: {words: result}.

Right answers are computed here another way than in the package: in float64, by loops, by Python's own whole numbers.
"""

import numpy as np


def half(x):  # -> what float16 holds of it, as float64
    return np.asarray(x, np.float32).astype(np.float16).astype(np.float64)


def steps(x, scale):  # float32 quotients, as codes are chosen; a scale of 0 gives 0
    scale = np.asarray(scale, np.float32)
    return np.rint(np.asarray(x, np.float32) / np.where(scale == 0, np.float32(np.inf), scale)).astype(np.float64)


# --- 08.1 ---------------------------------------------------------------------------------------------------------------


def sums(x, w):  # (n, columns), (rows, columns) int8 -> (n, rows) int64
    return x.astype(np.int64) @ w.astype(np.int64).T


def sums_in_float16(x, w):
    with np.errstate(over="ignore"):
        return (x.astype(np.float16) @ w.astype(np.float16).T).astype(np.float64)


def product(x, w, s_x, s_w):  # codes and scales (n, 1) or (1, 1), (rows, 1) or (1, 1) -> (n, rows)
    return sums(x, w) * s_x.astype(np.float64) * s_w.astype(np.float64).T


def product_mistakes(x, w, s_x, s_w):  # -> {words: (n, rows)}
    total, s_x, s_w = sums(x, w), s_x.astype(np.float64), s_w.astype(np.float64)
    slips = {
        "the sum was made in int8, where it wraps: int8_matmul makes it in int32": total.astype(np.int8) * s_x * s_w.T,
        "the sum was made in int16, where it wraps: int8_matmul makes it in int32": total.astype(np.int16) * s_x * s_w.T,
        "the sum was made in float16, which holds all whole numbers up to 2,048 and no more": sums_in_float16(x, w) * s_x * s_w.T,
        "it is the sum of codes: both scales are missing": total * 1.0,
        "the scales of w are missing": total * s_x,
        "the scales of x are missing": total * s_w.T,
        "the sums were divided by the scales": total / s_x / s_w.T,
        "the scales were added: each is a factor": total * (s_x + s_w.T),
        "all tokens got the scale of the first": total * s_x[:1] * s_w.T,
        "all output channels got the scale of the first": total * s_x * s_w[:1].T,
        "the result was rounded to whole numbers": np.rint(total * s_x * s_w.T),
    }  # fmt: skip
    if len(x) == len(w):
        slips["the scales stand along the wrong axes: x's belong to rows of the result, w's to its columns"] = total * s_x.T * s_w
        slips["the scales of w stand along the tokens: they belong to the columns of the result"] = total * s_x * s_w
    return slips


# --- 08.2 ---------------------------------------------------------------------------------------------------------------


def vectorwise(x, w, x_scales=None):  # float32 matrices -> (n, rows): int8 with a scale for each row of both
    if x.shape[1] == 0:
        return np.zeros((len(x), len(w)))
    tiny = np.finfo(np.float32).tiny
    s_x = np.maximum(np.abs(x).max(1, keepdims=True) / np.float32(127), tiny) if x_scales is None else x_scales
    s_w = np.maximum(np.abs(w).max(1, keepdims=True) / np.float32(127), tiny)
    return (steps(x, s_x) @ steps(w, s_w).T) * s_x.astype(np.float64) * s_w.astype(np.float64).T


def split(x, w, threshold, apart=None):
    if apart is None:
        apart = [any(abs(value) > threshold for value in column) for column in x.T.tolist()]
    apart = np.array(apart, bool)
    return x[:, apart].astype(np.float64) @ w[:, apart].T + vectorwise(x[:, ~apart], w[:, ~apart])


def split_mistakes(x, w, threshold):  # -> {words: (n, rows)}
    apart = (np.abs(x) > threshold).any(0)
    large, rest = x[:, apart].astype(np.float64) @ w[:, apart].T, vectorwise(x[:, ~apart], w[:, ~apart])
    s_x = np.abs(x).max(1, keepdims=True) / np.float32(127)
    return {
        "no column was taken apart": vectorwise(x, w),
        "a column was taken apart only if all tokens are above the threshold: one is enough": split(
            x, w, threshold, (np.abs(x) > threshold).all(0)),
        "negative outliers were overlooked: a magnitude counts": split(x, w, threshold, (x > threshold).any(0)),
        "columns were chosen by their mean magnitude": split(x, w, threshold, np.abs(x).mean(0) > threshold),
        "the scales of the tokens still have the outliers in them: scale what is left": large + vectorwise(
            x[:, ~apart], w[:, ~apart], s_x),
        "the outlier columns were lost: their product is added": rest,
        "the outlier columns were counted twice: in floats, and in the int8 part as well": large + vectorwise(x, w),
        "only the outlier columns were multiplied": large,
        "the wrong columns were taken apart: those without outliers": split(x, w, threshold, ~apart),
        "the whole product was one of floats": x.astype(np.float64) @ w.T,
    }  # fmt: skip


# --- 08.3 ---------------------------------------------------------------------------------------------------------------


def fold(before, matrices, scales, outputs):  # {name: array} each -> {name: array}
    by_rows = {name: outputs if a.ndim == 1 else outputs[:, None] for name, a in before.items()}
    return {name: a / by_rows[name] for name, a in before.items()} | {name: w * scales for name, w in matrices.items()}


def fold_mistakes(before, matrices, scales, outputs):  # -> {name of an array: {words: array}}
    by_rows = {name: outputs if a.ndim == 1 else outputs[:, None] for name, a in before.items()}
    found = {}
    for name, w in matrices.items():
        found[name] = {
            f"{name} is as it was: all matrices of a fold take the scales": w,
            f"{name} was divided: x is divided, and weights are multiplied": w / scales,
            f"{name} was multiplied twice": w * scales * scales,
        }
        if w.shape[0] == w.shape[1]:
            found[name][f"rows of {name} were multiplied: a scale belongs to an input, a column"] = w * scales[:, None]
    for name, a in before.items():
        found[name] = {
            f"{name} is as it was: the smoothing was not folded back, so the model computes something else": a,
            f"{name} was multiplied: it makes x, which is divided": a * by_rows[name],
            f"{name} was divided twice": a / by_rows[name] ** 2,
        }
        if a.ndim == 2 and a.shape[0] == a.shape[1]:
            found[name][f"columns of {name} were divided: its outputs are its rows"] = a / outputs
    return found


# --- 08.5 ---------------------------------------------------------------------------------------------------------------


def rounded(x, mantissa, how=np.rint):  # (n,) float32, normal -> (n,) float64
    fraction, exponent = np.frexp(x.astype(np.float64))  # 1/2 ≤ |fraction| < 1: 1 + mantissa bits before the point, scaled
    return np.ldexp(how(np.ldexp(fraction, mantissa + 1)), exponent - mantissa - 1)


def rounded_mistakes(x, mantissa):  # -> {words: (n,)}
    def away(a):
        return np.copysign(np.floor(np.abs(a) + 0.5), a)

    def inward(a):
        return np.copysign(np.ceil(np.abs(a) - 0.5), a)

    def odd(a):
        tie, even = np.abs(a) % 1 == 0.5, np.rint(a)
        return np.where(tie, 2 * a - even, even)

    nearest = rounded(x, mantissa)
    carried = np.frexp(nearest)[1] > np.frexp(x.astype(np.float64))[1]
    return {
        "the carry out of the mantissa was lost: it makes the exponent one more": np.where(carried, nearest / 2, nearest),
        "a tie went away from zero: to the even neighbour it goes": rounded(x, mantissa, away),
        "a tie went towards zero: to the even neighbour it goes": rounded(x, mantissa, inward),
        "a tie went to the odd neighbour: to the even one it goes": rounded(x, mantissa, odd),
        "the bits were cut off, not rounded": rounded(x, mantissa, np.trunc),
        "numbers were rounded up, whatever was cut off": rounded(x, mantissa, lambda a: np.copysign(np.ceil(np.abs(a)), a)),
        f"one bit too few was kept: {mantissa - 1} in place of {mantissa}": rounded(x, mantissa - 1),
        f"one bit too many was kept: {mantissa + 1} in place of {mantissa}": rounded(x, mantissa + 1),
        "nothing was rounded": x.astype(np.float64),
    }


# --- 08.6 ---------------------------------------------------------------------------------------------------------------


def errors(x, scale, beyond=None, codes=None, power=2):  # (n, columns), number -> clipped, rounded: shares of ‖x‖²
    x = x.astype(np.float64)
    codes = np.clip(steps(x, scale), -127, 127) if codes is None else codes
    beyond = np.abs(x) > 127 * float(scale) if beyond is None else beyond
    wrong, whole = np.abs(x - codes * float(scale)) ** power, np.square(x).sum()
    return np.array([wrong[beyond].sum() / whole, wrong[~beyond].sum() / whole])


def error_mistakes(x, scale):  # -> {words: (2,)}
    plain, all_of_them = errors(x, scale), np.ones(x.shape, bool)
    wrapped = np.rint(x / scale).astype(np.int64).astype(np.int8)
    return {
        "codes beyond 127 wrapped in a byte: limit them to ±127 before they become int8": errors(x, scale, codes=wrapped),
        "codes were not limited to ±127: static scales clip": errors(x, scale, codes=steps(x, scale)),
        "what is beyond the calibration's maximum counts, and that is 127 steps, not one": errors(x, scale, np.abs(x) > scale),
        "negative numbers are clipped as well: a magnitude counts": errors(x, scale, x > 127 * scale),
        "clipped and rounded are swapped": plain[::-1],
        "errors were not squared": errors(x, scale, power=1),
        "all errors were counted as clipping": errors(x, scale, all_of_them),
        "all errors were counted as rounding": errors(x, scale, ~all_of_them),
        "numbers were cut off at the calibration's maximum and not rounded": errors(
            x, scale, codes=np.clip(x / float(scale), -127, 127)),
        "the scale was taken from these numbers, so nothing is clipped": errors(x, np.float32(np.abs(x).max() / np.float32(127))),
    }  # fmt: skip
