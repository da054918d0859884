"""What quantization did to a model: KL divergence against plain loops, and what it must be in cases that are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm import LLM
from minillm.bench.quality import compare, predictions
from minillm.course.checks import check_close, draws, seeds
from minillm.metrics.perplexity import kl_divergence
from minillm.model.random_model import random_model
from minillm.model.sampling import log_softmax


def loops(p, q):  # two rows of probabilities
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@given(n=st.integers(1, 3), vocabulary=st.integers(1, 6), seed=seeds)
def test_kl_divergence_is_that_of_the_loops(n, vocabulary, seed):
    a, b = (log_softmax(2 * x.astype(np.float64)) for x in draws(seed, (n, vocabulary), (n, vocabulary)))
    expected = np.array([loops(p, q) for p, q in zip(np.exp(a).tolist(), np.exp(b).tolist(), strict=True)])
    found = kl_divergence(a.astype(np.float32), b.astype(np.float32))
    check_close(found, expected, atol=1e-5, what="KL divergence")
    assert (found > -1e-6).all()


def test_what_the_original_never_says_counts_nothing_and_what_only_it_says_is_infinite():
    half, one = math.log(0.5), -np.inf
    found = kl_divergence(np.array([[0.0, one], [half, half]]), np.array([[half, half], [0.0, one]]))
    assert found[0] == pytest.approx(math.log(2)) and found[1] == np.inf


def test_a_model_does_not_differ_from_itself_and_a_shifted_one_does():
    llm, rng = LLM(random_model(backend="numpy"), "numpy"), np.random.default_rng(3)
    texts = [rng.integers(0, 256, n).tolist() for n in (2, 9, 30)]
    own = predictions(llm, texts)
    same = compare(own, own, texts)
    assert (same.tokens, same.kl, same.kl_99, same.agreement) == (1 + 8 + 29, 0, 0, 1)
    expected = math.exp(-np.mean([own[i][j, ids[j + 1]] for i, ids in enumerate(texts) for j in range(len(ids) - 1)]))
    assert same.perplexity == pytest.approx(expected, rel=1e-5)
    other = [np.roll(rows, 1, axis=1) for rows in own]
    assert compare(other, own, texts).agreement == 0 and compare(other, own, texts).kl > same.kl
