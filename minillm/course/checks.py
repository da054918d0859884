"""What the test of an exercise imports.

    @exercise("03.2", points=2, hint="What happens to l when a later tile has a larger maximum?")
    @given(seed=seeds)
    def test_...(seed):
        scores, values = draws(seed, (3, 8), (8, 4))
        check_close(mine(scores, values), oracle(scores, values), what="acc / l")

check_close says what is wrong and what usually causes it, not only that numbers differ. A test that knows what people get wrong
tells it (mistakes), and a learner who did just that reads so. draws and seeds take every random input from one number,
`pytest --seed`: a new seed is a new, hidden test.
"""

import contextlib
import os
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minillm.course.exercises.diagnose import diagnose


class Mismatch(AssertionError):
    """Raised by check_close: the message is the diagnosis."""

    __module__ = "builtins"  # pytest prints "Mismatch", not a path


def check_close(
    actual: Any, expected: Any, rtol: float = 1e-4, atol: float = 1e-5, what: str = "result", mistakes: Callable = dict,
    dtype: Any = None
) -> None:
    """Pass if actual is an array (or number) like expected, within atol + rtol * |expected|; otherwise say what is wrong.

    The type must be NumPy's own, the shape equal, the kind of dtype (float, int, bool) equal, and NaN and inf must be in the
    same places. Widths of float may differ: oracles compute in float64, learners in float32.

    mistakes: a function, called on failure alone, that returns {a mistake in words: what it gives}; the first that agrees
    with actual is named. `mistakes=lambda: {"the scores were not divided by √d": softmax(q @ k.T) @ v}`.
    dtype: where the width is part of the contract, it must be this one: what widens in silence doubles the bytes moved.
    """
    __tracebackhide__ = True
    problem = diagnose(actual, expected, rtol, atol, mistakes)
    if not problem and dtype is not None and actual.dtype != dtype:
        problem = (
            f"has the right values as {actual.dtype}, expected {np.dtype(dtype)}: what widened it? "
            "np.sqrt of a Python int, a NumPy scalar of float64, and np.zeros or np.array without dtype do so in silence."
        )
    if problem:
        raise Mismatch(f"{what} {problem}")


@contextlib.contextmanager
def answers(what: str, ask: object) -> Iterator[None]:
    """Turn an exception of the code under test into words: `with answers("tpot of no tokens", "Is there a gap at all?"): ...`"""
    __tracebackhide__ = True
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise Mismatch(f"{what} must give an answer, found {type(error).__name__}: {error}. {ask}") from error


def check_memory(function: Callable, *arguments: Any, most: int, why: str = "") -> None:
    """Fail if a call takes `most` bytes or more at once, beside what is taken once, at a first call. Say why that is too much.

    A learner is told how many it were (tracemalloc). A grader cannot ask the process under test: there the system refuses what is
    more (remote.Wall.fits), so make it large: 30 MB and more, or memory that was freed before may do.
    """
    function(*arguments)
    if fits := getattr(function, "fits", None):
        taken = f"{most:,} or more" if not fits(most, *arguments) else ""
    else:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            function(*arguments)
            bytes_taken = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        taken = f"{bytes_taken:,}" if bytes_taken >= most else ""
    if taken:
        raise Mismatch(f"{taken} bytes were taken at once, expected less than {most:,}. {why}")


def exercise(id: str, *, points: int = 1, hint: str | Sequence[str] = (), seconds: float | None = None) -> Any:
    """Mark a test as belonging to an exercise. hint: one string, or several that `minillm course hint` reveals in turn.

    seconds: a time limit of the test's own, where the plugin's --time-limit is too short (numba compiling in parallel).
    """
    import pytest

    return pytest.mark.exercise(id, points=points, hint=hint, seconds=seconds)


def draws(seed: int, *shapes: tuple[int, ...]) -> Any:
    """Draw one float32 array of standard normals for each shape, from the run's seed and this one. A single shape: an array."""
    rng = np.random.default_rng([run_seed(), seed])
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return arrays if len(arrays) > 1 else arrays[0]


def run_seed() -> int:
    """Return the number given to pytest --seed (0 unless told). It travels in the environment, so that child processes agree."""
    return int(os.environ.get("MINILLM_SEED", "0"))


def __getattr__(name: str) -> Any:
    if name == "seeds":  # built on first use: importing hypothesis takes longer than most exercises
        from hypothesis import strategies

        return strategies.integers(0, 2**32 - 1)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
