"""Say what is wrong with an array, as a teacher would on seeing it.

Most wrong answers are wrong in one of a few ways: not returned, transposed, an axis lost, off by √d, a row not divided by its
sum, shifted by one, 0/0 where everything was masked. Each way is one function here, tried in order; the first that recognises
the answer names it, and the first wrong index with both values always follows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np


def diagnose(actual: Any, expected: Any, rtol: float, atol: float, mistakes: Callable = dict) -> str | None:
    """Describe the problem as a phrase that follows the name of the value ("has shape (2, 3), ..."); None where there is none.

    mistakes() gives {a mistake in words: what it gives}: an answer that is one of these is recognised first.
    """
    expected = np.asarray(expected)
    problem = _type(actual, expected)
    if problem:
        return problem
    actual = np.array(actual)  # a copy: what is judged cannot change under the judge
    problem = _shape(actual, expected, rtol, atol) or _dtype(actual, expected)
    if problem:
        return problem
    for kind, where in (("NaN", np.isnan), ("infinite", np.isinf)) if expected.dtype.kind in "fc" else ():
        problem = _not_finite(kind, where(actual), where(expected), actual, expected)
        if problem:
            return problem
    with np.errstate(invalid="ignore", over="ignore"):
        wide = np.result_type(actual, expected, np.float64)
        a, e = actual.astype(wide), expected.astype(wide)
        wrong = ~np.isclose(a, e, rtol=rtol, atol=atol)
        if not wrong.any():
            return None
        finite = np.isfinite(a) & np.isfinite(e)

        def like(x: np.ndarray, y: np.ndarray) -> bool:
            return x.shape == y.shape and bool(np.isclose(x, y, rtol=rtol, atol=atol, equal_nan=True).all())

        mistake = next((did for did, value in mistakes().items() if like(a, np.asarray(value))), None)
        if mistake:
            return f"is what comes out when {mistake}.\n{_first(a, e, wrong)}"
        story = (
            _number(a, e)
            or _swapped(a, e, like)
            or _factor(a[finite], e[finite], like, actual.shape)
            or _constant(a[finite], e[finite], like)
            or _moved(a, e, like)
            or _rows(a, e, wrong, like)
            or "is wrong"
        )
    return f"{story.removesuffix('?')}{'?' if story.endswith('?') else '.'}\n{_first(a, e, wrong)}"


def _type(actual: Any, expected: Any) -> str | None:
    if actual is None:
        return "is None: did the function forget to return it?"
    if expected.ndim and type(actual) is not np.ndarray:
        return f"is a {type(actual).__name__}, expected a NumPy array of shape {expected.shape}."
    if not expected.ndim and type(actual) not in (bool, int, float, complex, np.ndarray) and not isinstance(actual, np.generic):
        return f"is a {type(actual).__name__}, expected a number."
    return None


def _shape(actual: np.ndarray, expected: np.ndarray, rtol: float, atol: float) -> str | None:
    if actual.shape == expected.shape:
        return None
    said = f"has shape {actual.shape}, expected {expected.shape}"
    if actual.dtype == object:
        return f"{said}: its rows have unequal lengths."
    if actual.ndim == expected.ndim >= 2 and sorted(actual.shape) == sorted(expected.shape):
        for axes in ((i, j) for i in range(actual.ndim) for j in range(i)):
            turned = np.swapaxes(actual, *axes)
            if turned.shape == expected.shape and np.allclose(turned, expected, rtol, atol):
                return f"{said}: the values are right, axes {axes[1]} and {axes[0]} are swapped (transposed)."
        return f"{said}: transposed?"
    if actual.size == expected.size and np.squeeze(actual).shape == np.squeeze(expected).shape:
        return f"{said}: an axis of length 1 too {'many' if actual.ndim > expected.ndim else 'few'} (keepdims? [:, None]?)."
    return f"{said}."


def _dtype(actual: np.ndarray, expected: np.ndarray) -> str | None:
    kinds = {"f": "floating point", "i": "integers", "u": "integers", "b": "true or false", "c": "complex"}
    got, want = (kinds.get(array.dtype.kind, str(array.dtype)) for array in (actual, expected))
    return None if got == want else f"has dtype {actual.dtype} ({got}), expected {expected.dtype} ({want})."


def _not_finite(kind: str, got: Any, want: Any, actual: np.ndarray, expected: np.ndarray) -> str | None:
    if (got == want).all():
        return None
    index = _index(got != want)
    if (got & ~want).any():
        index = _index(got & ~want)
        why = "0/0 or inf - inf? a row with every entry masked?" if kind == "NaN" else "exp of a large number? a division by 0?"
        where = f"{(got & ~want).sum()} of {got.size} entries, first at {index} (expected {expected[_at(index)]:.6g})"
        return f"is {kind} at {where}: {why}"
    return f"should be {kind} at {index}, got {actual[_at(index)]:.6g}."


def _number(a: np.ndarray, e: np.ndarray) -> str | None:
    """Diagnose a number that is no array: a factor, where it has a name (2, 1/64, √8)."""
    if a.ndim:
        return None
    ratio = float((a / e).real) if e else 1.0
    name = name_factor(ratio) if ratio and np.isfinite(ratio) and abs(ratio - 1) > 1e-3 else ""
    return f"is off by a factor {name}" if "=" in name or ":" in name or name.lstrip("-").isdigit() else "is wrong"


def _swapped(a: np.ndarray, e: np.ndarray, like: Callable) -> str | None:
    for i in range(a.ndim):
        for j in range(i):
            if a.shape[i] > 1 and a.shape[j] > 1 and like(np.swapaxes(a, i, j), e):
                return f"has the right values with axes {j} and {i} swapped (transposed)"
    return None


def _factor(a: np.ndarray, e: np.ndarray, like: Callable, shape: tuple[int, ...]) -> str | None:
    big = np.abs(e) > 1e-6 * max(np.abs(e).max(initial=0), 1e-30)
    if big.sum() < 2 or not a.any():
        return "is all zeros" if e.size and not a.any() else None
    ratio = float(np.median((a[big] / e[big]).real))
    if ratio == 0 or not like(a / ratio, e):
        return None
    return f"is off by a constant factor {name_factor(ratio, shape)}"


def name_factor(ratio: float, shape: tuple[int, ...] = ()) -> str:
    """'-1', '2.828 = √8', '0.3536 = 1/√8', '2.35e+17 = exp(40)', or the plain number."""
    if abs(ratio + 1) < 1e-3:
        return "-1: the sign is wrong"
    sign, size = "-" if ratio < 0 else "", abs(ratio)
    known: dict[str, float] = {}
    for n in [*range(2, 17), *sorted(set(shape) - {0, 1}), *(2**k for k in range(5, 15))]:
        known |= {str(n): n, f"1/{n}": 1 / n, f"√{n}": n**0.5, f"1/√{n}": n**-0.5}
    known |= {"ln 2": np.log(2), "log2(e)": 1 / np.log(2), "π": np.pi, "2π": 2 * np.pi, "1/π": 1 / np.pi}
    if abs(power := round(np.log(size))) >= 1:
        known[f"exp({power})"] = np.exp(float(power))
    plain = f"{ratio:.4g}"
    for name, value in known.items():
        if abs(size / value - 1) < 3e-4:
            return plain if plain == sign + name else f"{plain} = {sign}{name}"
    return plain


def _constant(a: np.ndarray, e: np.ndarray, like: Callable) -> str | None:
    if a.size < 2:
        return None
    shift = float(np.median((a - e).real))
    side = "large" if shift > 0 else "small"
    return f"is off by a constant: everywhere {abs(shift):.6g} too {side}" if like(a - shift, e) else None


def _moved(a: np.ndarray, e: np.ndarray, like: Callable) -> str | None:
    for axis in range(a.ndim):
        if a.shape[axis] < 2:
            continue
        x, y = np.moveaxis(a, axis, 0), np.moveaxis(e, axis, 0)
        if len(x) > 2 and np.ptp(y, axis=0).any():
            if like(x[1:], y[:-1]):
                return f"is shifted by one along axis {axis}: entry i holds what belongs at i - 1"
            if like(x[:-1], y[1:]):
                return f"is shifted by one along axis {axis}: entry i holds what belongs at i + 1"
        places = [next((j for j in range(len(y)) if like(row, y[j])), None) for row in x[:64]]
        if len(x) <= 64 and sorted(p for p in places if p is not None) == list(range(len(x))):
            i = next(i for i, place in enumerate(places) if i != place)
            return f"has the right entries in the wrong order along axis {axis}: entry {i} holds what belongs at {places[i]}"
    return None


def _rows(a: np.ndarray, e: np.ndarray, wrong: np.ndarray, like: Callable) -> str | None:
    """Find wrong rows, each off by a factor of its own: something per row was not applied."""
    if a.ndim < 2:
        return None
    bad = np.argwhere(wrong.any(axis=-1))
    stories = [_factor(a[tuple(row)], e[tuple(row)], like, a.shape) or "" for row in bad]
    if not all("factor" in story for story in stories):
        return None
    name, where = stories[0].split("factor ")[1], ", ".join(map(str, bad[0]))
    which = f"row {where} is" if len(bad) == 1 else f"{len(bad)} rows, each by a factor of its own; row {where} is"
    ask = "Was a row not divided by its sum, or not rescaled when its maximum rose?"
    return f"is wrong in {which} off by a factor {name}. {ask}"


def _first(a: np.ndarray, e: np.ndarray, wrong: Any) -> str:
    if not a.ndim:
        digits = 12 if abs(e) > 1e5 or f"{a:.6g}" == f"{e:.6g}" else 6
        return f"Got {a:,.{digits}g}, expected {e:,.{digits}g}."
    index = _index(wrong)
    worst = np.nanmax(np.where(wrong & np.isfinite(a - e), np.abs(a - e), 0))
    some = f"{wrong.sum()} of {wrong.size} entries differ, by up to {worst:.3g}"
    return f"First difference at {index}: got {a[_at(index)]:.6g}, expected {e[_at(index)]:.6g}; {some}."


def _index(mask: np.ndarray) -> list[int]:
    return [int(i) for i in np.argwhere(mask)[0]]


def _at(index: Any) -> Any:
    return tuple(index)
