import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.course.checks import check_close, draws, exercise, seeds
from minillm.layers import attend, scores


@exercise("91.1", points=2, hint=["What is the variance of a sum of d products?", "Divide by the square root of d."])
@settings(max_examples=20)
@given(n=st.integers(1, 4), d=st.integers(2, 9), seed=seeds)
def test_scores_are_scaled_dot_products(n, d, seed):
    q, k = draws(seed, (n, d), (3, d))
    expected = oracles.scores(q, k)
    check_close(scores(q, k), expected, what="scores")


@exercise("91.1", hint="A query of zeros has nothing to say.")
def test_a_query_of_zeros_scores_zero():
    check_close(scores(np.zeros((1, 4), np.float32), draws(1, (3, 4))), np.zeros((1, 3)), what="scores of a zero query")


@exercise("91.2", points=3, hint="Along which axis do weights sum to 1?")
@pytest.mark.parametrize("m", [1, 2, 5])
def test_attention_is_the_weighted_mean(m):
    q, k, v = draws(m, (3, 4), (m, 4), (m, 2))
    weights = [oracles.softmax(row) for row in oracles.scores(q, k)]
    expected = np.array(weights) @ v.astype(np.float64)
    check_close(attend(q, k, v), expected, what="weighted mean of the values")


def test_of_no_exercise():
    assert scores(np.ones((1, 1)), np.ones((1, 1))).shape == (1, 1)
