"""Typical acceptance keeps more, and is biased: exactly, for four words."""

import numpy as np
import pytest

from minillm.costs.speculation import acceptance_rate
from minillm.speculative.typical import DELTA, EPSILON, bias, kept, threshold, typical_output

P = np.array([6, 3, 2, 1]) / 12
Q = np.array([3, 3, 3, 3]) / 12


def lossless_output(p, q):
    """The rule of verify.py, by its formula."""
    return np.minimum(p, q) + (1 - np.minimum(p, q).sum()) * np.maximum(p - q, 0) / np.maximum(p - q, 0).sum()


def test_it_keeps_more_and_leans_towards_the_draft():
    out = typical_output(P, Q)
    assert kept(P).tolist() == [True, True, True, True] and Q @ kept(P) > acceptance_rate(P, Q)
    assert out.sum() == pytest.approx(1) and bias(P, out) == pytest.approx(0.25)
    np.testing.assert_allclose(lossless_output(P, Q), P, atol=1e-12)
    assert bias(P, lossless_output(P, Q)) < 1e-12


def test_what_is_rejected_is_replaced_by_the_targets_draw():
    p = np.array([0.9, 0.06, 0.04, 0.0])
    entropy = -sum(x * np.log(x) for x in p[:3])
    assert threshold(p) == pytest.approx(min(EPSILON, DELTA * np.exp(-entropy))) and 0.06 < threshold(p) < 0.1
    assert kept(p).tolist() == [True, False, False, False]
    out = typical_output(p, Q)
    through = 0.25 * np.array([1, 0, 0, 0])
    np.testing.assert_allclose(out, through + (1 - through.sum()) * p)
    assert bias(p, out) == pytest.approx(0.025)


def test_a_stricter_threshold_has_less_bias_and_none_is_left_where_nothing_is_kept():
    biases = [bias(P, typical_output(P, Q, epsilon, 1)) for epsilon in (0.05, 0.1, 0.2, 0.3)]
    assert biases[0] == pytest.approx(0.25) and (np.diff(biases) < 1e-12).all() and biases[-1] < 0.2
    assert bias(P, typical_output(P, Q, 1, 9)) == 0 and bias(P, typical_output(P, P)) < 1e-12
    sure = np.array([0, 1.0, 0, 0])
    np.testing.assert_allclose(typical_output(sure, Q), sure, err_msg="a certain target: lossless")
