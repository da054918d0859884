"""check_close: each way of being wrong is recognised and named; and what is right passes."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.course import checks
from minillm.course.checks import Mismatch, check_close, draws, seeds
from minillm.course.exercises.diagnose import name_factor

E = np.random.default_rng(0).standard_normal((4, 6))
SQUARE = np.random.default_rng(1).standard_normal((5, 5))


def rows_off():
    wrong = E.copy()
    wrong[1] *= 3
    wrong[3] *= math.exp(40)
    return wrong


def one_wrong():
    wrong = E.copy()
    wrong[2, 3] = 9
    return wrong


def with_value(value):
    wrong = E.copy()
    wrong[0, 1] = value
    return wrong


@pytest.mark.parametrize(
    ("actual", "expected", "says"),
    [
        (None, E, "is None: did the function forget to return it"),
        (E.tolist(), E, r"is a list, expected a NumPy array of shape \(4, 6\)"),
        ("3", 3.0, "is a str, expected a number"),
        (E[:3], E, r"has shape \(3, 6\), expected \(4, 6\)\."),
        (E.T, E, "the values are right, axes 0 and 1 are swapped"),
        (E.T + 1, E, r"expected \(4, 6\): transposed\?"),
        (E[:, None], E, "an axis of length 1 too many"),
        (E.sum(1), E.sum(1, keepdims=True), "an axis of length 1 too few"),
        (E.astype(np.int64), E, r"has dtype int64 \(integers\), expected float64"),
        (E > 0, (E > 0).astype(int), r"has dtype bool \(true or false\), expected int64 \(integers\)"),
        (with_value(np.nan), E, r"is NaN at 1 of 24 entries, first at \[0, 1\].*0/0 or inf - inf"),
        (with_value(-np.inf), E, r"is infinite at 1 of 24 entries, first at \[0, 1\]"),
        (E, with_value(-np.inf), r"should be infinite at \[0, 1\], got"),
        (SQUARE.T, SQUARE, "axes 0 and 1 swapped"),
        (E * math.sqrt(6), E, "constant factor 2.449 = √6"),
        (E / math.sqrt(128), E, "constant factor 0.08839 = 1/√128"),
        (E * 2, E, r"constant factor 2\."),
        (E / 4, E, "constant factor 0.25 = 1/4"),
        (-E, E, "constant factor -1: the sign is wrong"),
        (E * math.exp(40), E, r"constant factor 2.354e\+17 = exp\(40\)"),
        (E * 1.37, E, r"constant factor 1.37\."),
        (E * 0, E, "is all zeros"),
        (E + 1, E, "off by a constant: everywhere 1 too large"),
        (E - 0.5, E, "everywhere 0.5 too small"),
        (np.roll(E, 1, axis=0), E, "shifted by one along axis 0: entry i holds what belongs at i - 1"),
        (np.roll(E, -1, axis=1), E, r"shifted by one along axis 1: entry i holds what belongs at i \+ 1"),
        (E[[0, 2, 1, 3]], E, "wrong order along axis 0: entry 1 holds what belongs at 2"),
        (rows_off(), E, "2 rows, each by a factor of its own; row 1 is off by a factor 3"),
        (one_wrong(), E, r"First difference at \[2, 3\]: got 9, expected .*; 1 of 24 entries differ, by up to"),
        (3, 4, r"is wrong\.\nGot 3, expected 4\."),
        (269_099_000.0, 269_029_000.0, r"is wrong\.\nGot 269,099,000, expected 269,029,000\."),
        (1.0000001, 1.0000004, r"is wrong\.\nGot 1.0000001, expected 1.0000004\."),
        (16.0, 2.0, r"is off by a factor 8\.\nGot 16, expected 2\."),
        (1.0, 64.0, r"is off by a factor 0.01562 = 1/64\."),
        (-4, 4, "is off by a factor -1: the sign is wrong"),
        (0, 4, r"is wrong\.\nGot 0, expected 4\."),
    ],
)
def test_a_wrong_answer_is_recognised(actual, expected, says):
    with pytest.raises(Mismatch, match=f"^it {says}" if says.startswith(("is", "has dtype")) else says) as caught:
        check_close(actual, expected, what="it", rtol=1e-9, atol=1e-9)
    assert str(caught.value).startswith("it ")


@given(seed=seeds, shape=st.lists(st.integers(0, 4), max_size=3))
def test_a_right_answer_passes_in_float32_and_with_its_infinities(seed, shape):
    x = draws(seed, tuple(shape))
    check_close(x, x.astype(np.float64) * (1 + 1e-6))
    if x.size:
        x = np.asarray(x)
        x.flat[0] = -np.inf
        check_close(x, x.astype(np.float64))


def test_a_mistake_that_the_test_knows_is_named_before_any_guess():
    said = {"rows were summed": E.sum(0), "the result was doubled": E * 2, "it was doubled again": E * 2, "it is NaN": E * np.nan}
    with pytest.raises(Mismatch, match=r"^it is what comes out when the result was doubled\.\nFirst difference at \[0, 0\]"):
        check_close(E * 2, E, what="it", mistakes=lambda: said)
    with pytest.raises(Mismatch, match="constant factor 3"):
        check_close(E * 3, E, mistakes=lambda: said)
    with pytest.raises(Mismatch, match=r"a gap was counted twice\.\nGot 4, expected 3"):
        check_close(4.0, 3.0, mistakes=lambda: {"a gap was counted twice": 4})


def test_mistakes_are_not_computed_for_an_answer_that_is_right():
    check_close(E, E, mistakes=lambda: pytest.fail("computed"))


def test_numbers_may_be_pythons_or_numpys():
    for number in (2.0, np.float32(2), np.float64(2), np.array(2.0)):
        check_close(number, 2.0)
    check_close(3, 3)


def test_an_object_that_claims_to_equal_everything_is_refused():
    class Liar(np.ndarray):
        def __array_ufunc__(self, *args, **kwargs):
            return np.True_

    with pytest.raises(Mismatch, match="is a Liar"):
        check_close(np.zeros((4, 6)).view(Liar), E)


@given(st.sampled_from([2, 1 / 2, 2**0.5, 64**-0.5, math.e, math.pi, 1 / math.log(2), -3]))
def test_known_factors_have_names(ratio):
    name = name_factor(ratio)
    plain = name.split(" = ")[0]
    assert float(plain) == pytest.approx(ratio, rel=1e-3)
    assert "=" in name or float(plain) == round(ratio)


def test_draws_depend_on_the_seed_of_the_run_and_on_their_own(monkeypatch):
    first = draws(1, (3,))
    assert (draws(1, (3,)) == first).all() and (draws(2, (3,)) != first).any() and first.dtype == np.float32
    monkeypatch.setenv("MINILLM_SEED", "8")
    assert (draws(1, (3,)) != first).any()


def test_checks_import_neither_numba_nor_pytest_nor_hypothesis():
    heavy = ("numba", "matplotlib", "pytest", "hypothesis")
    code = f"import sys, minillm.course.checks; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert not hasattr(checks, "nothing")
