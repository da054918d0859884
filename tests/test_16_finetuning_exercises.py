"""Exercises of lesson 16: three gradients and steps of training, thin matrices, and where sixteen levels lie."""

import mistakes_training as mistakes
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.course.checks import check_close, check_memory, draws, exercise, run_seed, seeds
from minillm.model.lora import Adapter
from minillm.quantization.nf4 import nf4_levels
from minillm.training.cross_entropy import IGNORE, ROWS, cross_entropy
from minillm.training.gradients import rms_norm_backward
from minillm.training.lora import lora_linear, merge
from minillm.training.optimizer import adamw, zeros_like


def unchanged(given, before, who):
    """{name: array} twice."""
    for name, array in given.items():
        assert np.array_equal(array, before[name]), f"{who} changed {name}, which it was only given to read"


# --- 16.1 ---------------------------------------------------------------------------------------------------------------


def check_cross_entropy(logits, targets):
    expected, wrong = mistakes.cross_entropy(logits, targets, ROWS)
    _, found = cross_entropy(logits, targets)
    check_close(found, expected, what="dz, with targets " + str(targets[:8].tolist()), mistakes=lambda: wrong)


@exercise("16.1", points=2, hint=(
    "dz = (p - onehot) / n. What must exp(z - top) be divided by to become p?",
    "p lies where the logits lie, and that array is given back: change it in place.",
    "p *= share / sums, with a share of 1/n for each row that counts and 0 for the others; then p[rows, y[rows]] -= 1/n.",
))  # fmt: skip
@given(rows=st.integers(1, 5), vocabulary=st.integers(2, 6), seed=seeds)
def test_the_gradient_is_what_was_said_less_what_came(rows, vocabulary, seed):
    logits = 3 * draws(seed, (rows, vocabulary))
    targets = np.random.default_rng([run_seed(), seed]).integers(0, vocabulary, rows)
    check_cross_entropy(logits, targets)


@exercise("16.1", points=1, hint=(
    "A row whose target is IGNORE has gradient 0, and n counts the others only: `counted`.",
    "IGNORE is -1, which NumPy takes for the last entry. `rows` are the rows that count.",
))  # fmt: skip
@pytest.mark.parametrize("targets", [[1, IGNORE, 0], [IGNORE, IGNORE, 3, 2], [IGNORE, 0]])
def test_a_target_to_be_ignored_pulls_at_nothing(targets):
    check_cross_entropy(draws(len(targets), (len(targets), 4)), np.array(targets))


@exercise("16.1", points=1, hint="The rows come in pieces of ROWS. The n of the mean is the same for all pieces.")
@pytest.mark.parametrize("rows", [ROWS + 1, 2 * ROWS + 5])
def test_a_long_batch_has_one_mean(rows):
    targets = np.random.default_rng([run_seed(), rows]).integers(IGNORE, 3, rows)
    logits = draws(rows, (rows, 3))
    expected, wrong = mistakes.cross_entropy(logits, targets, ROWS)
    _, found = cross_entropy(logits, targets)
    scaled = {said: rows * value for said, value in wrong.items()}
    check_close(rows * found, rows * expected, what=f"dz of {rows} rows, times {rows},", mistakes=lambda: scaled)


# --- 16.2 ---------------------------------------------------------------------------------------------------------------


def norm_inputs(seed, *shape, eps=0.1):
    """x, w, ε, dy, and the two gradients by differences of plain loops."""
    x, weight, d_y = (a.astype(np.float64) for a in draws(seed, shape, shape[-1:], shape))
    rows, d_rows = x.reshape(-1, shape[-1]), d_y.reshape(-1, shape[-1])
    d_x = oracles.gradient(lambda rows: float((d_rows * oracles.rms_norm(rows, weight, eps)).sum()), rows)
    d_weight = oracles.gradient(lambda weight: float((d_rows * oracles.rms_norm(rows, weight, eps)).sum()), weight)
    return (x, weight, eps, d_y), d_x.reshape(shape), d_weight


@exercise("16.2", points=1, hint="y = w ∘ x̂: how does y change with w? Every token adds its share.")
@given(tokens=st.integers(1, 4), d=st.integers(1, 5), seed=seeds)
def test_the_gain_learns_from_every_token(tokens, d, seed):
    inputs, _, expected = norm_inputs(seed, tokens, d)
    found = rms_norm_backward(*inputs)[1]
    check_close(found, expected, what="dw", mistakes=lambda: mistakes.rms_norm_d_weight(*inputs))


@exercise("16.2", points=3, hint=(
    "Two ways lead from x to y: through x itself, and through r. What does each of them give?",
    "The first gives r g, with g = dy ∘ w. dr/dx = -r³ x / d, and the second sums g over all components of the vector.",
    "dx = r (g - x̂ mean(g ∘ x̂)), the mean over a vector's components.",
))  # fmt: skip
@given(tokens=st.integers(1, 4), d=st.integers(1, 5), seed=seeds)
def test_the_gradient_knows_that_the_length_depends_on_x(tokens, d, seed):
    inputs, expected, _ = norm_inputs(seed, tokens, d)
    found = rms_norm_backward(*inputs)[0]
    check_close(found, expected, what="dx", mistakes=lambda: mistakes.rms_norm_d_x(*inputs))


@exercise("16.2", points=1, hint=(
    "x may have more axes, (tokens, heads, d): dw is still (d,).",
    "x, w and dy are needed by others afterwards: change none of them. x_hat is yours.",
))  # fmt: skip
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 3, 4)])
def test_heads_are_normed_like_vectors_and_inputs_stay(shape):
    inputs, d_x, d_weight = norm_inputs(7, *shape)
    before = {"x": inputs[0].copy(), "the weight": inputs[1].copy(), "dy": inputs[3].copy()}
    found = rms_norm_backward(*inputs)
    unchanged({"x": inputs[0], "the weight": inputs[1], "dy": inputs[3]}, before, "rms_norm_backward")
    check_close(found[1], d_weight, what="dw of heads", mistakes=lambda: mistakes.rms_norm_d_weight(*inputs))
    check_close(found[0], d_x, what="dx of heads", mistakes=lambda: mistakes.rms_norm_d_x(*inputs))


# --- 16.3 ---------------------------------------------------------------------------------------------------------------

SETTINGS = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2, "weight_decay": 0.3}


def take_steps(weights, gradients, rates):
    """AdamW on one matrix: the weights and both moments after all steps."""
    parameters = {"w": weights.copy()}
    first, second = zeros_like(parameters), zeros_like(parameters)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        given = gradient.copy()
        adamw(parameters, {"w": given}, first, second, t, rate, **SETTINGS)
        unchanged({"the gradient": given}, {"the gradient": gradient}, "AdamW")
    return parameters["w"], first["w"], second["w"]


def run_of_steps(seed, steps):
    """Weights, gradients of all sizes, rates."""
    rng = np.random.default_rng([run_seed(), seed])
    weights, gradients = rng.standard_normal((2, 3)), rng.standard_normal((steps, 2, 3)) * 10 ** rng.uniform(-2, 1, (2, 3))
    return weights, gradients, rng.uniform(0.05, 0.2, steps).tolist()


@exercise("16.3", points=1, hint=(
    "What does the optimizer remember from one step to the next, and what does it forget?",
    "m and v are running means, of g and of g²: β of the old, 1 - β of the new. They change in place (m *= …).",
    "m *= β₁; m += (1 - β₁) g; v *= β₂; v += (1 - β₂) g².",
))  # fmt: skip
@given(steps=st.integers(1, 4), seed=seeds)
def test_the_moments_are_running_means_of_g_and_of_its_square(steps, seed):
    weights, gradients, rates = run_of_steps(seed, steps)
    _, m, v = mistakes.adamw(weights, gradients, rates, 0.3, 0.8, 0.95, 1e-2)
    found = take_steps(weights, gradients, rates)
    inputs = weights, gradients, rates, 0.3, 0.8, 0.95, 1e-2
    check_close(found[1], m, what=f"m after {steps} steps", mistakes=lambda: mistakes.adamw_mistakes(1, *inputs))
    check_close(found[2], v, what=f"v after {steps} steps", mistakes=lambda: mistakes.adamw_mistakes(2, *inputs))


@exercise("16.3", points=3, hint=(
    "m begins at 0. By which factor is it too small after t steps with the same gradient?",
    "m̂ = m / (1 - β₁ᵗ) and v̂ = v / (1 - β₂ᵗ), t the number of the step; then w ← w - η m̂ / (√v̂ + ε).",
    "Decay first: w ← w (1 - η λ). It is no part of the gradient, and not divided by √v̂.",
))  # fmt: skip
@given(steps=st.integers(1, 4), seed=seeds)
def test_a_weight_steps_by_its_own_corrected_mean(steps, seed):
    inputs = *run_of_steps(seed, steps), 0.3, 0.8, 0.95, 1e-2
    expected = mistakes.adamw(*inputs)[0]
    found = take_steps(*inputs[:3])[0]
    check_close(found, expected, what=f"w after {steps} steps", mistakes=lambda: mistakes.adamw_mistakes(0, *inputs))


@exercise("16.3", points=1, hint="Which share of a weight goes, if its gradient is 0? It depends on η and λ, not on its size.")
def test_without_a_gradient_a_matrix_decays_by_a_share_and_a_norm_stays():
    sizes = np.array([[1e-3, 1.0, 1e3]])
    parameters = {"matrix": sizes.copy(), "norm": sizes[0].copy()}
    none = zeros_like(parameters)
    adamw(parameters, none, zeros_like(parameters), zeros_like(parameters), 1, 0.5, **SETTINGS)
    l2 = mistakes.adamw(sizes, [np.zeros((1, 3))], [0.5], 0.3, 0.8, 0.95, 1e-2, "L2")[0] / sizes
    wrong = {
        "decay is added to the gradient (L2), and divided by √v with it": l2,
        "the decay is not multiplied by the rate": np.full((1, 3), 0.7),
        "w is not decayed": np.ones((1, 3)),
    }
    what = "share of the matrix that is left (η 0.5, λ 0.3)"
    check_close(parameters["matrix"] / sizes, np.full((1, 3), 0.85), what=what, mistakes=lambda: wrong)
    check_close(parameters["norm"] / sizes[0], np.ones(3), what="share of the norm that is left (its decay is 0)")


# --- 16.4 ---------------------------------------------------------------------------------------------------------------

ranks, alphas = st.integers(1, 4), st.sampled_from([0.5, 3.0, 16.0])
sides = st.sampled_from([2, 3, 4, 5, 1])  # the smallest that fails shall tell d_out from 1


@exercise("16.4", points=2, hint=(
    "Two ways lead from x to y and are added. How many numbers a token lie in the middle of the thin one?",
    "Through W; and through A, down to r numbers, and B, up again. The thin way is scaled by α/r: which array's length is r?",
    "y = linear(x, weight) + (alpha / len(a)) * linear(linear(x, a), b).",
))  # fmt: skip
@given(tokens=sides, d_in=sides, d_out=sides, rank=ranks, alpha=alphas, seed=seeds)
def test_an_adapter_adds_its_way_to_that_of_the_matrix(tokens, d_in, d_out, rank, alpha, seed):
    inputs = x, weight, a, b = draws(seed, (tokens, d_in), (d_out, d_in), (rank, d_in), (d_out, rank))
    before = {"x": x.copy(), "W": weight.copy(), "A": a.copy(), "B": b.copy()}
    expected, wrong = mistakes.lora(*inputs, alpha)
    y = lora_linear(*inputs, alpha)
    what = f"y, with r = {rank} and α = {alpha:g},"
    check_close(y, expected, atol=1e-4, what=what, mistakes=lambda: wrong, dtype=np.float32)
    unchanged({"x": x, "W": weight, "A": a, "B": b}, before, "lora_linear")


@exercise("16.4", points=1, hint="(x Aᵀ) Bᵀ and x (B A)ᵀ are equal. How large is what lies between?")
def test_the_product_of_the_thin_matrices_is_never_made():
    side = 3000
    x, a, b = draws(1, (1, side), (2, side), (side, 2))
    weight = np.ones((side, side), np.float32)
    why = f"A matrix of {side} × {side} takes {4 * side**2:,}, a row of y {4 * side:,}. Was B A made, or W copied?"
    check_memory(lora_linear, x, weight, a, b, 4.0, most=2 * side**2, why=why)


# --- 16.5 ---------------------------------------------------------------------------------------------------------------


class Packed:
    """A matrix that is kept in some other form, and has floats when asked."""

    def __init__(self, weight):
        self.weight = weight

    def dense(self):
        return self.weight.copy()


def base_and_adapter(seed, rank=2, alpha=6.0):
    """Two matrices and a norm; an adapter on the first."""
    first, second, norm, a, b = draws(seed, (4, 3), (3, 4), (3,), (rank, 3), (4, rank))
    names = "blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.0.attn_norm.weight"
    adapter = Adapter({names[0] + ".lora_a": a, names[0] + ".lora_b": b}, alpha)
    return dict(zip(names, (first, second, norm), strict=True)), adapter, (first.copy(), a.copy(), b.copy(), alpha)


@exercise("16.5", points=1, hint=(
    "Others use the same base. Which arrays of the result may be the base's own, and which must be new?",
    "adapter.pairs() gives {name of a matrix: (A, B)}; delta(a, b, alpha) is what to add to it.",
    "merged = dict(parameters): the same arrays. Then merged[name] = dense(parameters[name]) + delta(a, b, alpha) for each pair.",
))  # fmt: skip
@given(rank=st.integers(1, 3), alpha=alphas, seed=seeds)
def test_merged_weights_are_the_base_and_what_was_learnt(rank, alpha, seed):
    base, adapter, inputs = base_and_adapter(seed, rank, alpha)
    (adapted, *others), kept = base, dict(base)
    expected, wrong = mistakes.merged(*inputs)
    merged = merge(base, adapter)
    assert list(merged) == list(kept), f"expected the weights {', '.join(kept)}; found {', '.join(map(str, merged))}"
    check_close(merged[adapted], expected, what=f"the merged matrix, with r = {rank} and α = {alpha:g},", mistakes=lambda: wrong)
    for name in others:
        assert merged[name] is kept[name], f"{name} has no adapter: the same array, not a copy, was expected"


@exercise("16.5", points=1, hint="W += ΔW changes the base, which other adapters still need. W + ΔW makes a new array.")
def test_the_base_is_as_it_was():
    base, adapter, (weight, *_) = base_and_adapter(3)
    (adapted, *_), kept = base, dict(base)
    merged = merge(base, adapter)
    assert merged is not base and all(base[name] is kept[name] for name in kept), "the dictionary of the base was changed"
    first = f"expected {weight[0, 0]:.4f} at [0, 0], found {kept[adapted][0, 0]:.4f}"
    assert np.array_equal(kept[adapted], weight), f"merge changed the base's own matrix: {first}. Merged twice, it is wrong"


@exercise("16.5", points=1, hint="dense(weight) gives floats, whether the matrix is an array or packed.")
def test_a_packed_base_becomes_floats_where_it_is_merged():
    base, adapter, inputs = base_and_adapter(4)
    (adapted, other, _), expected = base, mistakes.merged(*inputs)[0]
    base[adapted], base[other] = Packed(base[adapted]), Packed(base[other])
    try:
        merged = merge(base, adapter)
    except (TypeError, AttributeError) as error:
        pytest.fail(f"the base's matrix is packed, and is no array before dense() makes one: {error}")
    check_close(merged[adapted], expected, what="the merged matrix, from a packed one,")
    assert merged.get(other) is base[other], f"{other} has no adapter and stays packed: the same object was expected"
    base, adapter, _ = base_and_adapter(4)
    base = {name: array.astype(np.float16) for name, array in base.items()}
    found = merge(base, adapter)[adapted]
    assert found.dtype == np.float32, (
        f"the base is float16, the merged matrix must be float32, found {found.dtype}: "
        "what was learnt is smaller than what float16 rounds away"
    )


# --- 16.6 ---------------------------------------------------------------------------------------------------------------


@exercise("16.6", points=1, hint=(
    "Levels are quantiles, and one of them is exactly 0: of which probability? How many levels lie on each side of it?",
    "Probabilities from `edge` to 1/2 and from 1/2 to 1 - edge, evenly spaced on each side; NormalDist().inv_cdf of each.",
    "edge = (1/32 + 1/30) / 2; np.linspace(edge, 1/2, 8), then np.linspace(1/2, 1 - edge, 9)[1:]. Divide all by the largest.",
))  # fmt: skip
def test_the_levels_are_those_of_the_paper():
    found = nf4_levels()
    what = "the row of sixteen levels"
    check_close(found, np.array(mistakes.NF4), rtol=0, atol=1e-6, what=what, mistakes=mistakes.level_mistakes)


@exercise("16.6", points=1, hint="A pruned weight is 0 and must stay 0; the largest of a block is ±1 and must stay so.")
def test_zero_and_both_ends_are_levels():
    levels = nf4_levels()
    assert 0.0 in levels, f"expected a level that is exactly 0; the nearest found is {levels[np.abs(levels).argmin()]:.4f}"
    ends = f"found {levels[0]:.4f} and {levels[-1]:.4f}"
    assert (levels[0], levels[-1]) == (-1, 1), f"expected the first and last level to be -1 and 1, {ends}"
    assert (np.diff(levels) > 0).all(), f"expected levels that rise, found {np.round(levels, 2).tolist()}"


@exercise("16.6", points=1, hint="Where do most weights of a normal distribution lie, and where should levels be close together?")
def test_they_round_normal_weights_better_than_even_steps():
    weights = np.random.default_rng([run_seed(), 16]).standard_normal((1000, 64))
    even = mistakes.rounding_error(np.linspace(-1, 1, 16), weights)
    levels = nf4_levels().astype(np.float64)
    assert np.isfinite(levels).all(), f"found {levels.tolist()}: the quantiles of 0 and 1 are infinite"
    error = mistakes.rounding_error(levels, weights)
    assert error < 0.9 * even, (
        f"rounding 64,000 normal weights is off by {error:.5f} on average (mean square), and by {even:.5f} with evenly spaced "
        "levels: expected at most 0.9 of that. Are levels close together where weights are frequent?"
    )
