"""Exercises of lesson 16: gradients and steps of training, thin matrices, and the memory that a step needs."""

from dataclasses import dataclass, replace

import mistakes_training as mistakes
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.course.checks import check_close, check_memory, draws, exercise, run_seed, seeds
from minillm.model.config import ModelConfig
from minillm.model.lora import MATRICES, Adapter
from minillm.quantization.nf4 import nf4_levels, quantize_nf4
from minillm.training import model
from minillm.training.cross_entropy import IGNORE, ROWS, cross_entropy
from minillm.training.gradients import rms_norm_backward
from minillm.training.layer import EVERY_WEIGHT, layer_forward
from minillm.training.lora import LoRAProducts, fresh_adapter, lora_backward, lora_linear, merge
from minillm.training.memory import activation_bytes
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
rows, scales = st.sampled_from([3, 2, 5, 1]), st.sampled_from([0.7, 3.0, 16.0])  # and tokens from d_out, and α from 1/2


@dataclass
class AdapterCase:
    """What lora_backward is given, in float64, and the gradients: by differences of a forward pass in plain loops."""

    x: np.ndarray
    a: np.ndarray
    b: np.ndarray
    alpha: float
    d_y: np.ndarray
    gradients: tuple[np.ndarray, ...]

    @property
    def inputs(self):
        return self.x, self.a, self.b, self.alpha, self.d_y

    def check(self, which, found):
        """which: 0, 1 or 2, dx, dA or dB."""
        what = f"{('dx of the adapter', 'dA', 'dB')[which]}, with r = {len(self.a)} and α = {self.alpha:g},"
        wrong = mistakes.lora_gradients(*self.inputs)[which]
        check_close(found, self.gradients[which], rtol=1e-6, atol=1e-7, what=what, mistakes=lambda: wrong)


def adapter_case(seed, tokens, d_in, d_out, rank, alpha, fresh=False):
    x, a, b, d_y = (one.astype(np.float64) for one in draws(seed, (tokens, d_in), (rank, d_in), (d_out, rank), (tokens, d_out)))
    b = b * (not fresh)

    def differences(at):
        def loss(moved):
            return float((d_y * mistakes.thin(*(moved if i == at else one for i, one in enumerate((x, a, b))), alpha)).sum())

        return oracles.gradient(loss, (x, a, b)[at], step=1e-3)  # exact up to rounding: y is linear in each of the three

    return AdapterCase(x, a, b, alpha, d_y, tuple(differences(at) for at in range(3)))


@exercise("16.4", points=2, hint=(
    "For y = z Mᵀ the gradients are dz = dy M and dM = dyᵀ z. Through how many products of this kind does x pass here?",
    "Two: low = x Aᵀ, then low Bᵀ, times α/r. Go backwards: dB is made of dy and low, dA of x and the gradient of low.",
    "d_low = (alpha / len(a)) * (d_y @ b), of shape (T, r); d_a = d_low.T @ x; d_b = (alpha / len(a)) * (d_y.T @ linear(x, a)).",
))  # fmt: skip
@given(tokens=rows, d_in=sides, d_out=sides, rank=ranks, alpha=scales, seed=seeds)
def test_the_gradients_of_both_thin_matrices_are_those_of_the_differences(tokens, d_in, d_out, rank, alpha, seed):
    case = adapter_case(seed, tokens, d_in, d_out, rank, alpha)
    _, d_a, d_b = lora_backward(*case.inputs)
    case.check(1, d_a)
    case.check(2, d_b)


@exercise("16.4", points=1, hint=(
    "x reaches y through W and through A and B. dy W is added by whoever calls; what comes back on the thin way?",
    "The gradient of low = x Aᵀ, passed on through A: d_x = d_low @ a.",
))  # fmt: skip
@given(tokens=rows, d_in=sides, d_out=sides, rank=ranks, alpha=scales, seed=seeds)
def test_the_layer_below_gets_what_the_thin_way_adds(tokens, d_in, d_out, rank, alpha, seed):
    case = adapter_case(seed, tokens, d_in, d_out, rank, alpha)
    case.check(0, lora_backward(*case.inputs)[0])


@exercise("16.4", points=1, hint="A gradient is returned; A, B, x and dy are needed by others afterwards: change none of them.")
def test_at_the_first_step_b_alone_moves_and_nothing_given_changes():
    """The second formula: ΔW = (α/r) B A, so dA = (α/r) Bᵀ dW and dB = (α/r) dW Aᵀ, of the dW that is never made."""
    case = adapter_case(6, 5, 4, 3, 2, 6.0, fresh=True)
    before = {"x": case.x.copy(), "A": case.a.copy(), "B": case.b.copy(), "dy": case.d_y.copy()}
    by_d_weight = 3.0 * (case.d_y.T @ case.x @ case.a.T)
    d_x, d_a, d_b = lora_backward(*case.inputs)
    unchanged({"x": case.x, "A": case.a, "B": case.b, "dy": case.d_y}, before, "lora_backward")
    wrong = {"dB vanishes with B: it is made of dy and x Aᵀ": np.zeros((3, 2)), "the scale α/r is left out": by_d_weight / 3}
    check_close(d_b, by_d_weight, what="dB, where B is zero,", mistakes=lambda: wrong)
    check_close(d_a, np.zeros((2, 4)), what="dA, where B is zero,")
    check_close(d_x, np.zeros((5, 4)), what="dx of the adapter, where B is zero,")


@exercise("16.4", points=1, hint="dW = dyᵀ x has as many numbers as W. Which order of the products has r of them in the middle?")
def test_the_gradient_of_the_matrix_is_never_made():
    side = 3000
    x, a, b = draws(1, (1, side), (2, side), (side, 2))
    why = f"A matrix of {side} × {side} takes {4 * side**2:,}. Was dW made (dyᵀ x), or B A?"
    check_memory(lora_backward, x, a, b, 4.0, x, most=2 * side**2, why=why)
    widths = {said: one.dtype for said, one in zip(("dx", "dA", "dB"), lora_backward(x, a, b, 4.0, x), strict=True)}
    wide = [said for said, dtype in widths.items() if dtype != np.float32]
    assert not wide, f"{' and '.join(wide)} became float64 where all that was given is float32: twice the bytes, in every step"


@given(tokens=sides, d_in=sides, d_out=sides, rank=ranks, alpha=alphas, seed=seeds)
def test_an_adapter_adds_its_way_to_that_of_the_matrix(tokens, d_in, d_out, rank, alpha, seed):
    x, weight, a, b = draws(seed, (tokens, d_in), (d_out, d_in), (rank, d_in), (d_out, rank))
    expected = x.astype(np.float64) @ weight.T + mistakes.thin(x, a, b, alpha)
    check_close(lora_linear(x, weight, a, b, alpha), expected, atol=1e-4, what="y", dtype=np.float32)


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

SMALL = ModelConfig(
    n_layers=3, d_model=8, n_heads=4, n_kv_heads=2, d_head=6, d_ff=20, vocab_size=11, context_length=64, tied=True
)  # fmt: skip
SHAPES = {
    "every number another": SMALL,
    "one key head": replace(SMALL, n_kv_heads=1, n_layers=2),
    "as many key heads as query heads": replace(SMALL, n_kv_heads=4, d_ff=7),
    "one layer": replace(SMALL, n_layers=1),
    "normed q and k (Qwen3)": replace(SMALL, qk_norm=True, n_layers=5),
}


def arrays_kept(config, batch, length, adapted=None):  # -> {name: nbytes} of one layer, that a forward pass really keeps
    weights, products = model.parameters(config), EVERY_WEIGHT
    if adapted:
        weights, products = weights | fresh_adapter(config, 1, 1.0, adapted).weights, LoRAProducts(1.0)
    tokens = np.zeros((batch, length), int)
    x, angles = np.ones((batch * length, config.d_model), np.float32), model.angles_of(config, weights, tokens)
    _, kept = layer_forward(x, model.layer_weights(weights, 0), config, angles, batch, products)
    arrays = {id(array): (name, array.nbytes) for name in kept.__slots__ if (array := getattr(kept, name)) is not None}
    return dict(arrays.values())


def check_kept(config, batch, length, adapted=None, recompute=False):
    arrays, layers = arrays_kept(config, batch, length, adapted), config.n_layers
    one, x = sum(arrays.values()), arrays["x"]
    expected = (layers - 1) * x + one if recompute else layers * one
    wrong = mistakes.activation_mistakes(config, batch, length, arrays, recompute)
    found = activation_bytes(config, batch, length, adapted, recompute)
    if found == expected:
        return
    said = next((f" It is what comes out when {said}." for said, value in wrong.items() if value == found), "")
    away = f"; {abs(found - expected) / (4 * batch * length):,.1f} numbers a token too {'many' if found > expected else 'few'}."
    pytest.fail(
        f"{layers} layers of {batch} × {length} tokens{', recomputed,' if recompute else ''} keep {expected:,} bytes; found "
        f"{found:,}{away}{said} One layer's arrays, by bytes: {', '.join(f'{name} {n:,}' for name, n in arrays.items())}"
    )


@exercise("16.6", points=2, hint=(
    "Read layer.Activations. Which of its arrays are as wide as the model, which as all heads, which as the feed-forward?",
    "A token's row: x, m, h, h_m of d_model; q and out of heads · d_head; k and v of KV heads · d_head; gate, up, act of d_ff; a "
    "log-sum-exp for each head. With qk_norm two more arrays wait. A number has FLOAT bytes.",
    "layer = 4 * c.d_model + 2 * wide + 2 * narrow + 3 * c.d_ff + c.n_heads; times layers, tokens of all sequences, FLOAT.",
))  # fmt: skip
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 5), (2, 7)])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_waits_for_backward_is_what_forward_kept(shape, batch, length):
    check_kept(SHAPES[shape], batch, length)


@exercise("16.6", points=1, hint=(
    "Which product needs the input of a matrix: that of dx, or that of dW? And if W is frozen?",
    "h is there for q, k and v; h_m for gate and up; act for down. One adapter among an array's readers is enough to keep it.",
))  # fmt: skip
@pytest.mark.parametrize("adapted", [
    ("attn_q", "attn_v"), ("attn_k",), ("attn_output",), ("ffn_up", "attn_output"), ("ffn_down",), ("ffn_gate", "ffn_down"),
    MATRICES,
], ids=lambda names: "+".join(names))  # fmt: skip
def test_what_only_a_frozen_matrix_was_given_is_not_kept(adapted):
    check_kept(SHAPES["every number another"], 2, 3, adapted)


@exercise("16.6", points=1, hint=(
    "When one layer has been run again, what of it is there? And what of the layers that are still to come?",
    "All arrays of the one, and the inputs of the others; the one's own input x is among its arrays already.",
    "a_token = (c.n_layers - 1) * c.d_model + layer if recompute else c.n_layers * layer.",
))  # fmt: skip
@pytest.mark.parametrize("adapted", [None, ("ffn_down",)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_recomputed_the_inputs_of_all_and_the_arrays_of_one_are_there(shape, adapted):
    check_kept(SHAPES[shape], 2, 5, adapted, recompute=True)


# --- 16.7 ---------------------------------------------------------------------------------------------------------------


def check_nf4(weights):
    codes, absmax = mistakes.blockwise(weights)
    given = weights.copy()
    with np.errstate(all="ignore"):
        found = quantize_nf4(given)
    what = f"codes of the weights of {weights.shape[0]} × {weights.shape[1]}, as bytes,"
    unchanged({"the weights": given}, {"the weights": weights}, "quantize_nf4")
    wrong = mistakes.blockwise_mistakes(weights)
    check_close(found.codes.astype(int), mistakes.paired(codes), rtol=0, atol=0, what=what, mistakes=lambda: wrong)
    apart = {"each is the largest weight, not the largest magnitude": mistakes.blocks_of(weights).max(axis=1)}
    room = np.ptp(absmax) / 127 + 1e-6 * absmax.max()
    what = "absmax of each block, kept in 8 bits,"
    check_close(found.absmax(), absmax, rtol=0, atol=room, what=what, mistakes=lambda: apart)


@exercise("16.7", points=2, hint=(
    "How many weights share a scale, and which? A row may have 7 weights, or 100.",
    "One row of all weights, filled up with zeros to whole blocks, then (blocks, 64). The scale is a block's largest magnitude; "
    "nearest() gives a code for each weight that is divided by it.",
    "blocks = np.pad(weights.reshape(-1), (0, -weights.size % BLOCK)).reshape(-1, BLOCK); absmax = np.abs(blocks).max(axis=1); "
    "codes = nearest(blocks / absmax[:, None]); of two codes in a byte the first is in the high half.",
))  # fmt: skip
@pytest.mark.parametrize("shape", [(1, 64), (2, 64), (3, 100), (130, 1), (5, 7), (1, 1), (9, 150)], ids=str)
def test_each_block_of_64_has_a_scale_of_its_own(shape):
    sizes = 10 ** np.random.default_rng([run_seed(), *shape]).uniform(-2, 1, shape)
    check_nf4((draws(shape[1], shape) * sizes).astype(np.float32))


@exercise("16.7", points=1, hint="What is 0 / 0? Divide a block of zeros by 1: each weight is nearest to level 0.")
@pytest.mark.parametrize("shape", [(4, 64), (3, 50)], ids=str)
def test_a_block_of_zeros_stays_zeros(shape):
    weights = draws(8, shape)
    weights.reshape(-1)[64:128] = 0
    check_nf4(weights)


@exercise("16.7", points=1, hint="A scale of the whole matrix is ruled by its largest weight. Where does a block's scale end?")
def test_one_large_weight_makes_63_others_coarse_and_no_more():
    weights = draws(9, (20, 64))
    weights[3, 5] = 200.0
    quiet = np.delete(weights, 3, axis=0).astype(np.float64)
    with np.errstate(all="ignore"):
        found = quantize_nf4(weights).codes
    levels = nf4_levels().astype(np.float64)
    codes = np.stack([found >> 4, found & 15], axis=-1).reshape(20, 64)
    back = levels[np.delete(codes, 3, axis=0)] * np.abs(quiet).max(axis=1, keepdims=True)
    error, most = float(np.mean((back - quiet) ** 2)), 1.5 * mistakes.rounding_error(levels, quiet)
    assert error < most, (
        f"one weight of 20 × 64 is 200, the others are normal. In the 19 blocks without it rounding is off by {error:.4f} "
        f"(mean square), expected less than {most:.4f}: each block is scaled by its own largest magnitude"
    )


# --- levels of NF4: no exercise, but what 16.7 rounds to ------------------------------------------------------------------


def test_the_levels_are_those_of_the_paper():
    found = nf4_levels()
    what = "the row of sixteen levels"
    check_close(found, np.array(mistakes.NF4), rtol=0, atol=1e-6, what=what, mistakes=mistakes.level_mistakes)


def test_zero_and_both_ends_are_levels():
    levels = nf4_levels()
    assert 0.0 in levels, f"expected a level that is exactly 0; the nearest found is {levels[np.abs(levels).argmin()]:.4f}"
    ends = f"found {levels[0]:.4f} and {levels[-1]:.4f}"
    assert (levels[0], levels[-1]) == (-1, 1), f"expected the first and last level to be -1 and 1, {ends}"
    assert (np.diff(levels) > 0).all(), f"expected levels that rise, found {np.round(levels, 2).tolist()}"


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
