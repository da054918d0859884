"""Exercises of lesson 08: an int8 product, outliers apart, SmoothQuant folded, FP8 by bits, what static scales clip."""

import mistakes_activations as mistakes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.calibration.folding import FOLDS, folded
from minillm.course.checks import answers, check_close, exercise, run_seed, seeds
from minillm.model.config import ModelConfig
from minillm.model.random_model import random_model
from minillm.model.transformer import Segment, Transformer
from minillm.quantization.fp8 import round_by_bits
from minillm.quantization.int8 import Int8Matrix, int8_linear, static_errors
from minillm.quantization.llm_int8 import llm_int8

SHAPE = ModelConfig(n_layers=2, d_model=16, n_heads=4, n_kv_heads=2, d_head=8, d_ff=24, vocab_size=300, context_length=128)


def chance(*numbers):
    return np.random.default_rng([run_seed(), *numbers])


# --- 08.1 ---------------------------------------------------------------------------------------------------------------


def check_product(x, w, s_x, s_w, told):
    expected, wrong = mistakes.product(x, w, s_x, s_w), mistakes.product_mistakes(x, w, s_x, s_w)
    what = f"the product of {len(x)} tokens and {len(w)} output channels over {x.shape[1]} columns{told}"
    with answers(what, "It is a matrix (tokens, output channels): which scale belongs to a row of it, which to a column?"):
        found = int8_linear(Int8Matrix(x.copy(), s_x.copy()), Int8Matrix(w.copy(), s_w.copy()))
    check_close(found, expected, rtol=1e-5, atol=1e-3, what=what, mistakes=lambda: wrong)


def codes_of(rng, rows, columns):
    return rng.integers(-127, 128, (rows, columns), np.int8), np.exp(rng.normal(-4, 0.7, (rows, 1))).astype(np.float32)


@exercise("08.1", points=2, hint=(
    "Σ s_x X_j · s_w W_j: which factors are the same for all j? They can wait until the sum is made.",
    "`matmul` sums the products of codes in int32: (tokens, output channels). Row i has the scale of token i, column k that of "
    "row k of w.",
    "sums = matmul(x.codes, w.codes); multiply by x.scales, (tokens, 1), and by w.scales turned to (1, output channels).",
))  # fmt: skip
@given(tokens=st.integers(1, 4), rows=st.integers(1, 4), columns=st.sampled_from([16, 1, 5, 300]), seed=seeds)
def test_sums_of_codes_are_multiplied_by_the_scales_of_token_and_channel(tokens, rows, columns, seed):
    rng = chance(seed, 1)
    (x, s_x), (w, s_w) = codes_of(rng, tokens, columns), codes_of(rng, rows, columns)
    check_product(x, w, s_x, s_w, "")


@exercise("08.1", points=1, hint="127 · 127 is 16,129. Where does int8 end, and where int16?")
@given(columns=st.sampled_from([1, 3, 700]), seed=seeds)
def test_the_sum_has_room(columns, seed):
    rng = chance(seed, 2)
    signs = rng.choice([-1, 1], (3, 1)).astype(np.int8)
    x, w = np.full((3, columns), 127, np.int8) * signs, np.full((2, columns), 127, np.int8)
    check_product(x, w, codes_of(rng, 3, 1)[1], codes_of(rng, 2, 1)[1], ", all codes ±127,")


@exercise("08.1", points=1, hint="One scale for a tensor has shape (1, 1). Does it still multiply everything?")
def test_one_scale_may_stand_for_all_tokens_or_all_channels():
    rng = chance(3)
    for x_rows, w_rows in ((1, 4), (3, 1), (1, 1)):
        (x, s_x), (w, s_w) = codes_of(rng, 3, 20), codes_of(rng, 4, 20)
        check_product(x, w, s_x[:x_rows], s_w[:w_rows], f", scales of shapes ({x_rows}, 1) and ({w_rows}, 1),")


# --- 08.2 ---------------------------------------------------------------------------------------------------------------


def activations(seed, tokens, columns, large, threshold=6.0):
    """Inputs of size 1, of which some columns are above the threshold: in one token, in all, or from below."""
    rng = chance(seed, 4)
    x = rng.uniform(-1, 1, (tokens, columns)) * rng.choice([1, 1, 4], (1, columns))
    for number, column in enumerate(rng.choice(columns, large, replace=False)):
        x[:, column] = rng.uniform(-1, 1, tokens)
        who = slice(None) if number == 1 else rng.integers(0, tokens)
        x[who, column] = (-1 if number % 2 else 1) * threshold * rng.uniform(2, 8)
    return x.astype(np.float32), rng.standard_normal((3, columns)).astype(np.float32)


def check_split(x, w, threshold, told):
    expected, wrong = mistakes.split(x, w, threshold), mistakes.split_mistakes(x, w, threshold)
    what = f"the product of {len(x)} tokens over {x.shape[1]} columns, {told},"
    with answers(what, "A matrix (tokens, output channels) is wanted, whatever columns are apart."):
        found = llm_int8(x.copy(), w.copy(), threshold)
    check_close(found, expected, rtol=1e-4, atol=1e-3, what=what, mistakes=lambda: wrong)


@exercise("08.2", points=2, hint=(
    "The sum over columns falls into two sums. Which columns go into which, and which kind of product does each get?",
    "apart = outlier_columns(x, threshold), one bool a column. x[:, apart] @ w[:, apart].T is the float part.",
    "For ~apart: int8_linear(quantize_int8(x part, 'row'), quantize_int8(w part, 'row'), matmul). Add both parts.",
))  # fmt: skip
@given(tokens=st.integers(2, 5), large=st.sampled_from([2, 3, 1]), seed=seeds)
def test_columns_with_an_outlier_are_multiplied_as_floats_and_the_rest_as_codes(tokens, large, seed):
    check_split(*activations(seed, tokens, 12, large), 6.0, f"{large} of them with outliers")


@exercise("08.2", points=1, hint="Is an outlier of -40 one? And what if no column has any, or each?")
@pytest.mark.parametrize(("large", "threshold"), [(0, 6.0), (4, 3.0), (1, 20.0)])
def test_another_threshold_and_no_outliers(large, threshold):
    check_split(*activations(5, 3, 16, large, threshold), threshold, f"{large} of them above {threshold:g}")
    x, w = activations(6, 3, 8, 0)
    check_split(20 * np.copysign(np.maximum(np.abs(x), 0.1), x), w, 1.0, "all of them above 1")


# --- 08.3 ---------------------------------------------------------------------------------------------------------------


def one_layer(seed):
    """Weights of a layer whose norms have gains that differ."""
    rng, transformer = chance(seed, 7), random_model(SHAPE, backend="numpy")[0]
    for weights in transformer.weights.layers:
        for norm in (weights.attn_norm, weights.ffn_norm):
            norm[:] = np.exp(0.5 * rng.standard_normal(len(norm)))
    return transformer, rng


def scales_for(fold, weights, rng):
    """(columns,) scales, the same where heads share values; and those of what comes before."""
    if fold.before != "v":
        scales = np.exp(rng.standard_normal(getattr(weights, fold.matrices[0]).shape[1])).astype(np.float32)
        return scales, scales
    values = np.exp(rng.standard_normal((SHAPE.n_kv_heads, SHAPE.d_head))).astype(np.float32)
    return values.repeat(SHAPE.n_heads // SHAPE.n_kv_heads, axis=0).reshape(-1), values.reshape(-1)


def check_folds(seed, folds):
    transformer, rng = one_layer(seed)
    weights = transformer.weights.layers[0]
    for fold in folds:
        scales, outputs = scales_for(fold, weights, rng)
        before = {fold.before: np.array(getattr(weights, fold.before))}
        matrices = {name: np.array(getattr(weights, name)) for name in fold.matrices}
        expected, wrong = (make(before, matrices, scales, outputs) for make in (mistakes.fold, mistakes.fold_mistakes))
        with answers(f"folded of {fold.stem}", "Weights of a layer are wanted, with arrays of the same shapes."):
            found = folded(weights, fold, scales.copy(), SHAPE)
        for name, array in expected.items():
            what = f"{name} after folding {fold.before} into {', '.join(fold.matrices)}"
            check_close(np.array(getattr(found, name)), array, what=what, mistakes=lambda all_=wrong, name=name: all_[name])


@exercise("08.3", points=2, hint=(
    "x wᵀ = (x / s)(w · s)ᵀ. What makes x, and how does it make x / s without a division at run time?",
    "`changed` names the arrays that replace those of weights: each of `matrices` times scales, along its columns.",
    "changed[fold.before] = before / outputs: a norm's gain is a vector.",
))  # fmt: skip
@given(seed=seeds)
def test_a_norm_is_divided_and_all_matrices_behind_it_are_multiplied(seed):
    check_folds(seed, [fold for fold in FOLDS if fold.before.endswith("norm")])


@exercise("08.3", points=1, hint="Where v or up makes x, which of its axes are the components of x? `outputs` has their scales.")
@given(seed=seeds)
def test_where_a_matrix_makes_x_its_rows_are_divided(seed):
    check_folds(seed, [fold for fold in FOLDS if not fold.before.endswith("norm")])


@exercise("08.3", points=1, hint="Every scale that goes into a matrix must come out of what stands before it.")
def test_the_smoothed_model_computes_what_it_did():
    transformer, rng = one_layer(8)
    ids, layers = rng.integers(0, 256, 12), []
    expected = logits_of(transformer, ids)
    for weights in transformer.weights.layers:
        for fold in FOLDS:
            weights = folded(weights, fold, scales_for(fold, weights, rng)[0], SHAPE)
        layers.append({name: np.array(getattr(weights, name)) for fold in FOLDS for name in (fold.before, *fold.matrices)})
    for weights, arrays in zip(transformer.weights.layers, layers, strict=True):
        for name, array in arrays.items():
            setattr(weights, name, array)
    found = logits_of(Transformer(SHAPE, transformer.weights, transformer.ops), ids)
    check_close(found, expected, rtol=1e-3, atol=1e-3, what="the logits of the smoothed model, beside those of the model,")


def logits_of(transformer, ids):
    return np.array(transformer.forward([Segment(ids, 0, transformer.new_cache(len(ids)), "all")])[0])


# --- 08.5 ---------------------------------------------------------------------------------------------------------------


def check_rounded(x, mantissa, told):
    expected, wrong = mistakes.rounded(x, mantissa), mistakes.rounded_mistakes(x, mantissa)
    what = f"{told} rounded to {mantissa} bits of mantissa"
    with answers(what, "Bits are uint32 here, and so must be what is added to them."):
        found = round_by_bits(x.copy(), mantissa)
    check_close(found, expected, rtol=0, atol=0, what=what, mistakes=lambda: wrong)


@exercise("08.5", points=2, hint=(
    "float32 has 23 bits of mantissa, the lowest of its 32; `drop` of them go. What must be added before they are cut, so that "
    "the cut rounds to nearest?",
    "Just under half of the last kept bit: 0111…1 in the dropped bits. One more where the last kept bit is 1: ties go to even.",
    "half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1); cut with >> drop << drop.",
))  # fmt: skip
@given(mantissa=st.sampled_from([3, 2, 7]), seed=seeds)
def test_numbers_are_rounded_to_the_nearest_with_so_many_bits(mantissa, seed):
    rng = chance(seed, 11)
    x = (rng.standard_normal(20) * np.exp2(rng.integers(-20, 20, 20))).astype(np.float32)
    check_rounded(x, mantissa, "twenty numbers of many sizes")


@exercise("08.5", points=1, hint="17 lies half-way between 16 and 18. Which of the two has an even mantissa? And at 19?")
@pytest.mark.parametrize("mantissa", [3, 2])
def test_a_tie_goes_to_the_even_neighbour(mantissa):
    rng = chance(12)
    steps = np.arange(2**mantissa, 2 ** (mantissa + 1))
    x = (steps + 0.5) * np.exp2(rng.integers(-9, 9, len(steps))) * rng.choice([-1, 1], len(steps))
    check_rounded(x.astype(np.float32), mantissa, "numbers half-way between two neighbours,")


@exercise("08.5", points=1, hint="15.9 becomes 16, which has another exponent. Where does a carry out of the mantissa go?")
def test_a_carry_runs_into_the_exponent():
    x = (np.float32([15.9, -15.9, 1.99, 0.4999, 447.9, 1e-9, 3e30]) * np.exp2(chance(13).integers(-3, 3))).astype(np.float32)
    check_rounded(x, 3, "numbers just under a power of two")


# --- 08.6 ---------------------------------------------------------------------------------------------------------------


def check_errors(x, scale, told):
    scale = np.float32(scale)
    expected, wrong = mistakes.errors(x, scale), mistakes.error_mistakes(x, scale)
    what = f"clipped and rounded of {x.shape[0]} tokens, {told},"
    with answers(what, "Two numbers are wanted."):
        found = static_errors(x.copy(), np.full((1, 1), scale))
        found = np.array([float(number) for number in found])
    check_close(found, expected, rtol=1e-3, atol=1e-12, what=what, mistakes=lambda: wrong)


@exercise("08.6", points=2, hint=(
    "What does int8 make of a number beyond 127 steps, and what of all others? `wrong` has the squared error of each number.",
    "int8_codes rounds and limits, Int8Matrix(codes, scales).dense() is what comes back. Clipped is |x| > TOP · scale.",
    "wrong = np.square(x - dense, dtype=np.float64); clipped = np.abs(x) > TOP * scales.",
))  # fmt: skip
@given(tokens=st.integers(1, 4), share=st.sampled_from([0.5, 0.2, 0.8]), seed=seeds)
def test_what_clipping_costs_and_what_rounding_costs(tokens, share, seed):
    x = chance(seed, 14).standard_normal((tokens, 24)).astype(np.float32)
    check_errors(x, share * np.abs(x).max() / 127, f"the largest {1 / share:g} times the calibration's maximum")


@exercise("08.6", points=1, hint="Where calibration saw more than comes, nothing is clipped.")
@given(seed=seeds)
def test_where_calibration_saw_as_much_nothing_is_clipped(seed):
    x = chance(seed, 15).standard_normal((3, 16)).astype(np.float32)
    check_errors(x, 1.7 * np.abs(x).max() / 127, "all below the calibration's maximum")
