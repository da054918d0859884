"""Each layer's backward pass in float64 against differences (f(x + h) - f(x - h)) / 2h; cross-entropy's awkward targets."""

import math

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.attention.backward import attention_backward
from minillm.course.checks import draws, seeds
from minillm.errors import MiniLLMError
from minillm.layers import linear, rms_norm, rope, rope_angles, rope_frequencies, swiglu
from minillm.training.attention import TILE, attention_forward, attention_gradients
from minillm.training.cross_entropy import ROWS, cross_entropy
from minillm.training.gradients import (
    embedding_backward,
    linear_backward,
    rms_norm_backward,
    rope_backward,
    sigmoid,
    swiglu_backward,
)

few = settings(max_examples=15, deadline=None)


def doubles(seed, *shapes):
    return [draws(seed + i, shape).astype(np.float64) for i, shape in enumerate(shapes)]


def check(found, right, what, limit=1e-6):
    """found is right but for a millionth of its length; where the gradient is 0, differences of rounding are allowed."""
    found, right = np.asarray(found), np.asarray(right)
    assert found.shape == right.shape, f"{what}: shape {found.shape}, expected {right.shape}"
    error, length = np.linalg.norm(found - right), np.linalg.norm(right)
    assert error <= limit * max(length, 1e-3), f"{what}: off by {error:.3g}, its length is {length:.3g}"


def check_against_differences(forward, inputs, d_y, found, names):
    """found[i] is the derivative of Σ d_y ∘ forward(*inputs) by inputs[i]."""
    for i, name in enumerate(names):
        given = lambda x, i=i: float((d_y * forward(*inputs[:i], x, *inputs[i + 1 :])).sum())  # noqa: E731
        check(found[i], oracles.gradient(given, inputs[i], step=1e-5), name)


@few
@given(seeds, st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))
def test_linear(seed, tokens, d_in, d_out):
    x, weight, d_y = doubles(seed, (tokens, d_in), (d_out, d_in), (tokens, d_out))
    check_against_differences(linear, (x, weight), d_y, linear_backward(x, weight, d_y), ("dx", "dW"))


@few
@given(seeds, st.sampled_from([(1, 1), (1, 7), (5, 2), (3, 2, 4)]), st.sampled_from([1e-6, 0.3]))
def test_rms_norm_of_vectors_and_of_heads(seed, shape, eps):
    x, weight, d_y = doubles(seed, shape, shape[-1:], shape)
    given = x.copy(), weight.copy(), d_y.copy()
    found = rms_norm_backward(x, weight, eps, d_y)
    assert all((a == b).all() for a, b in zip((x, weight, d_y), given, strict=True)), "its inputs are changed"
    limit = 1e-6 if shape[-1] > 1 else 1e-4  # one component: y = ±w, all but independent of x
    for i, name in enumerate(("dx", "dw")):
        loss = lambda a, i=i: float((d_y * rms_norm(*((a, weight) if i == 0 else (x, a)), eps)).sum())  # noqa: E731
        check(found[i], oracles.gradient(loss, (x, weight)[i], step=1e-5), name, limit)


def test_rms_norm_of_a_vector_of_zeros_has_the_gradient_that_eps_gives_it():
    d_x, d_weight = rms_norm_backward(np.zeros((1, 3)), np.array([1.0, 2.0, 3.0]), 1e-4, np.ones((1, 3)))
    check(d_x, [[100, 200, 300]], "dx", 1e-12)
    assert not d_weight.any()


@few
@given(seeds, st.integers(1, 5), st.integers(1, 3), st.sampled_from([2, 6]), st.booleans())
def test_rope_in_both_conventions(seed, tokens, heads, d, interleaved):
    x, d_y = doubles(seed, (tokens, heads, d), (tokens, heads, d))
    angles = [a.astype(np.float64) for a in rope_angles(np.arange(tokens), rope_frequencies(d, 50.0))]
    forward = lambda x: rope(x, *angles, interleaved)  # noqa: E731
    check_against_differences(forward, (x,), d_y, [rope_backward(d_y, *angles, interleaved)], ["dx"])


@few
@given(seeds, st.integers(1, 4), st.integers(1, 5), st.sampled_from([1.0, 8.0]))
def test_swiglu(seed, tokens, d, spread):
    gate, up, d_y = doubles(seed, (tokens, d), (tokens, d), (tokens, d))
    gate *= spread
    given = gate.copy(), up.copy(), d_y.copy()
    found = swiglu_backward(gate, up, d_y)
    assert all((a == b).all() for a, b in zip((gate, up, d_y), given, strict=True)), "its inputs are changed"
    check_against_differences(swiglu, (gate, up), d_y, found, ("d_gate", "d_up"))


def test_swiglu_far_out_is_a_line_or_nothing_and_never_nan():
    gate = np.array([[-1e4, -100.0, 0.0, 100.0, 1e4]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        d_gate, d_up = swiglu_backward(gate, np.ones_like(gate), np.ones_like(gate))
    np.testing.assert_allclose(d_gate, [[0, 0, 0.5, 1, 1]], atol=1e-6)
    np.testing.assert_allclose(d_up, [[0, 0, 0, 100, 1e4]], atol=1e-6)
    assert sigmoid(gate).dtype == np.float32


@few
@given(seeds, st.integers(1, 9), st.integers(1, 3))
def test_embedding_adds_every_token_to_its_row(seed, tokens, d):
    ids = np.random.default_rng(seed).integers(0, 4, tokens)  # of 5 rows: some come twice, the last never
    d_y, start = doubles(seed, (tokens, d), (5, d))
    right, found = start.copy(), start.copy()
    for t, row in zip(ids, d_y, strict=True):
        right[t] += row
    embedding_backward(ids, d_y, found)
    check(found, right, "dE", 1e-12)


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (6, 2), (3, 1), (1, 1)])
@pytest.mark.parametrize("n", [1, 5])
def test_attention_against_loops_and_differences(heads, kv_heads, n):
    q, k, v, d_out = doubles(n + heads, (2, n, heads, 3), (2, n, kv_heads, 3), (2, n, kv_heads, 3), (2, n, heads, 3))
    out, lse = attention_forward(q, k, v)
    found = attention_gradients(q, k, v, out, lse, d_out)
    for b in range(2):
        right = oracles.attention_and_lse(q[b], k[b], v[b])
        check(out[b], right[0], "output", 1e-12)
        check(lse[b].T, right[1], "lse", 1e-12)
    for b in range(2) if n * heads <= 15 else []:
        for name, one, right in zip("qkv", found, oracles.attention_gradients(q[b], k[b], v[b], d_out[b]), strict=True):
            check(one[b], right, f"d{name} of sequence {b}")


@pytest.mark.parametrize("n", [TILE - 1, TILE, TILE + 1, 2 * TILE + 3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (3, 1)])
def test_attention_of_several_tiles_against_the_whole_matrix(n, heads, kv_heads):
    q, k, v, d_out = doubles(n, (2, n, heads, 4), (2, n, kv_heads, 4), (2, n, kv_heads, 4), (2, n, heads, 4))
    out, lse = attention_forward(q, k, v)
    found = attention_gradients(q, k, v, out, lse, d_out)
    for b in range(2):
        for name, one, right in zip("qkv", found, attention_backward(q[b], k[b], v[b], d_out[b]), strict=True):
            check(one[b], right, f"d{name} of sequence {b}", 1e-12)


def test_attention_of_large_scores_does_not_overflow():
    q, k, v, d_out = (x.astype(np.float32) for x in doubles(0, (1, 9, 2, 4), (1, 9, 1, 4), (1, 9, 1, 4), (1, 9, 2, 4)))
    out, lse = attention_forward(100 * q, 10 * k, v)
    assert np.isfinite(out).all() and np.isfinite(lse).all() and abs(lse).max() > 100
    assert all(np.isfinite(d).all() for d in attention_gradients(100 * q, 10 * k, v, out, lse, d_out))


def surprise(logits, targets):  # -> float, the mean over targets that are not -1, by plain loops
    rows = [(row, y) for row, y in zip(np.asarray(logits).tolist(), targets, strict=True) if y != -1]
    return sum(max(z) + math.log(sum(math.exp(a - max(z)) for a in z)) - z[y] for z, y in rows) / len(rows)


@few
@given(seeds, st.integers(1, 6), st.integers(1, 5), st.data())
def test_cross_entropy(seed, tokens, vocab, data):
    (logits,) = doubles(seed, (tokens, vocab))
    targets = np.array([0, *data.draw(st.lists(st.integers(-1, vocab - 1), min_size=tokens - 1, max_size=tokens - 1))])[::-1]
    kept = logits.copy()
    value, none = cross_entropy(logits, targets, gradient=False)
    assert none is None and (logits == kept).all()
    check(value, surprise(kept, targets), "loss", 1e-12)
    again, d_logits = cross_entropy(logits, targets)
    assert again == value and d_logits is logits
    check(d_logits, oracles.gradient(lambda z: surprise(z, targets), kept, step=1e-5), "dz")
    assert not d_logits[targets == -1].any()


@pytest.mark.parametrize("tokens", [ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 5])
def test_cross_entropy_of_more_rows_than_are_passed_at_once(tokens):
    (logits,) = doubles(tokens, (tokens, 7))
    targets = np.random.default_rng(1).integers(-1, 7, tokens)
    p = np.array([oracles.softmax(row) for row in logits.tolist()])
    p[np.arange(tokens), targets] -= 1
    right = np.where(targets[:, None] == -1, 0, p) / np.count_nonzero(targets != -1)
    expected = surprise(logits, targets)
    value, found = cross_entropy(logits, targets)
    check(value, expected, "loss", 1e-12)
    check(found, right, "dz", 1e-12)


def test_cross_entropy_of_huge_logits_is_finite_and_of_none_says_so():
    logits = np.array([[1e4, 0, -1e4], [-1e30, 0, 1e30]], np.float32)
    value, found = cross_entropy(logits, np.array([1, 2]))
    assert value == pytest.approx(5000) and np.allclose(found, [[0.5, -0.5, 0], [0, 0, 0]])
    assert found.dtype == np.float32
    with pytest.raises(MiniLLMError, match="at least 1 target, found 4 and all of them -1"):
        cross_entropy(np.zeros((4, 3)), np.full(4, -1))
