"""Exercises of lesson 07: a budget of memory; a grid, its codes, their bytes; GPTQ's update, AWQ's search, a rotation."""

import mistakes_quantization as mistakes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.calibration.rotating import rotate_model, rotated_tensor
from minillm.costs.memory import affordable_bits
from minillm.course.checks import answers, check_close, exercise, run_seed, seeds
from minillm.model.config import ModelConfig
from minillm.model.presets import preset
from minillm.model.random_model import random_model, tensor_shapes
from minillm.model.transformer import Segment
from minillm.quantization.affine import Grid, encode, fit
from minillm.quantization.awq import awq_scales
from minillm.quantization.bits import pack_bits
from minillm.quantization.gptq import gptq
from minillm.quantization.rotations import rotation


def chance(*numbers):
    return np.random.default_rng([run_seed(), *numbers])


# --- 07.1 ---------------------------------------------------------------------------------------------------------------


@exercise("07.1", points=1, hint=(
    "Which bytes of the machine may the weights have? Two things are taken off first.",
    "left = memory · utilization less the cache of all tokens; a config knows its kv_bytes_per_token(bytes of a number).",
    "left bytes are 8 · left bits, for config.parameters() weights.",
))  # fmt: skip
@given(name=st.sampled_from(["llama-3-70b", "llama-3-8b", "llama-2-7b"]), tokens=st.integers(1, 40_000), seed=seeds)
def test_the_bits_that_a_memory_leaves_for_each_weight(name, tokens, seed):
    rng, config = chance(seed, 1), preset(name)
    memory, share, kv_bits = float(rng.integers(40, 200)) * 1e9, float(rng.choice([0.8, 0.9, 0.95])), int(rng.choice([4, 8]))
    given = config, memory, tokens, share, kv_bits
    wrong = mistakes.budget_mistakes(*given)
    what = f"bits a weight of {name} in {memory / 1e9:g} GB, {share:.0%} usable, beside {tokens:,} tokens of {kv_bits} bits,"
    with answers(what, "A number is wanted: bits, scales included."):
        found = float(affordable_bits(*given))
    check_close(found, mistakes.budget(*given), rtol=1e-6, what=what, mistakes=lambda: wrong)


@exercise("07.1", points=1, hint="A cache that is larger than the memory leaves nothing. Can a weight have fewer than no bits?")
def test_where_the_cache_alone_is_too_large_nothing_is_left():
    found = float(affordable_bits(preset("llama-2-7b"), 8e9, 100_000))
    told = f"100,000 tokens of Llama-2-7B need 52 GB of 8: found {found:.3g} bits a weight, expected 0"
    assert found == 0, f"{told}. Is what is left limited from below?"


# --- 07.2 ---------------------------------------------------------------------------------------------------------------


def matrix_of(seed, rows, groups, group):
    """Weights whose groups differ in size and in place; no value is a tie on the way to float16."""
    rng = chance(seed, 2)
    w = rng.standard_normal((rows, groups, group)) * np.exp(rng.standard_normal((rows, groups, 1)))
    return (w + 0.7 * rng.standard_normal((rows, groups, 1))).astype(np.float32).reshape(rows, -1)


def check_fit(weights, bits, group, symmetric):
    scales, minima = mistakes.spans(weights, bits, group, symmetric)
    wrong_scales, wrong_minima = mistakes.span_mistakes(weights, bits, group, symmetric)
    what = f"of {'symmetric' if symmetric else 'asymmetric'} groups of {group}, {bits} bits,"
    with np.errstate(all="ignore"):
        found = fit(weights.copy(), Grid(bits, group, symmetric))
    check_close(found[0], scales, rtol=2e-3, atol=1e-7, what=f"the scales {what}", mistakes=lambda: wrong_scales)
    check_close(found[1], minima, rtol=2e-3, atol=1e-6, what=f"the minima {what}", mistakes=lambda: wrong_minima)
    return found


@exercise("07.2", points=2, hint=(
    "2^bits levels, from the smallest weight of a group to its largest: how many steps lie between them?",
    "The scale is the range over grid.top = 2^bits - 1, and the minimum is the smallest weight. `groups` has axes (rows, groups, "
    "weights of a group).",
    "scales = as_half((groups.max(axis=2) - groups.min(axis=2)) / grid.top); minima = as_half(groups.min(axis=2)).",
))  # fmt: skip
@given(bits=st.sampled_from([4, 3, 2, 8]), groups=st.integers(1, 3), seed=seeds)
def test_the_grid_spans_each_group_from_its_smallest_weight_to_its_largest(bits, groups, seed):
    check_fit(matrix_of(seed, 2, groups, 8), bits, 8, False)


@exercise("07.2", points=1, hint=(
    "A symmetric range reaches from -absmax to absmax. And which code must be exactly zero?",
    "scale = 2 · absmax / (2^bits - 1), and code 2^(bits-1) is 0: so the minimum, code 0, lies 2^(bits-1) steps below.",
))  # fmt: skip
@given(bits=st.sampled_from([4, 3, 2, 8]), groups=st.integers(1, 3), seed=seeds)
def test_a_symmetric_grid_has_zero_on_a_level(bits, groups, seed):
    check_fit(matrix_of(seed, 2, groups, 8), bits, 8, True)


@exercise("07.2", points=1, hint="A file keeps 16 bits of each scale and each minimum: as_half rounds, before codes are chosen.")
@pytest.mark.parametrize("symmetric", [False, True])
def test_scales_and_minima_are_what_float16_holds(symmetric):
    for found, name in zip(check_fit(matrix_of(3, 6, 4, 16), 4, 16, symmetric), ("scales", "minima"), strict=True):
        held = found.astype(np.float16).astype(np.float32)
        off = int((held != found).sum())
        told = f"{off} of {found.size} {name} are not what float16 holds"
        assert not off, f"{told}, the first {found[held != found][0]!r}: as_half?"


# --- 07.3 ---------------------------------------------------------------------------------------------------------------


def check_codes(weights, scales, minima, bits, told=""):
    expected, wrong = mistakes.codes(weights, scales, minima, bits), mistakes.code_mistakes(weights, scales, minima, bits)
    with np.errstate(all="ignore"):
        found = encode(weights.copy(), scales.copy(), minima.copy(), Grid(bits, weights.shape[1] // scales.shape[1]))
    what = f"the row of codes of {bits} bits{told}"
    found = found.astype(int) if isinstance(found, np.ndarray) and found.dtype.kind in "iuf" else found
    check_close(found, expected, rtol=0, atol=0, what=what, mistakes=lambda: wrong)


def grid_of(seed, rows, groups, bits):
    """Scales and minima, and weights on them that are never half-way between two levels."""
    rng = chance(seed, 4)
    scales = np.exp(rng.normal(0, 1, (rows, groups))).astype(np.float16).astype(np.float32)
    minima = (-rng.uniform(0.2, 0.8, (rows, groups)) * scales * (2**bits - 1)).astype(np.float16).astype(np.float32)
    places = rng.integers(0, 2**bits, (rows, groups, 8)) + rng.uniform(-0.4, 0.4, (rows, groups, 8))
    places[:, :, :2] = [0, 2**bits - 1]
    places[:, :, 1] += 0.3
    return (places * scales[:, :, None] + minima[:, :, None]).astype(np.float32).reshape(rows, -1), scales, minima


@exercise("07.3", points=2, hint=(
    "Code 0 stands for the minimum, and each code more for one scale more. How many steps above the minimum is a weight?",
    "(w - minimum) / scale, rounded to the nearest (np.rint). Scales and minima need a last axis, to stand beside a group.",
    "codes = np.rint((groups - minima[:, :, None]) / scales[:, :, None]), cut to 0 … grid.top.",
))  # fmt: skip
@given(bits=st.sampled_from([4, 3, 2, 8]), groups=st.integers(1, 3), seed=seeds)
def test_each_weight_takes_the_nearest_level(bits, groups, seed):
    check_codes(*grid_of(seed, 2, groups, bits), bits)


@exercise("07.3", points=1, hint="A weight beyond the last level takes the last level: 2^bits does not fit into the bits.")
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_lies_beyond_the_grid_takes_its_end(bits):
    weights, scales, minima = grid_of(5, 2, 2, bits)
    weights[:, 2::8] = (minima + scales * (2**bits + 2))[:, :]
    weights[:, 3::8] = (minima - 3 * scales)[:, :]
    check_codes(weights, scales, minima, bits, ", some weights beyond the grid,")


@exercise("07.3", points=1, hint="What is 0 / 0? A group of equal weights has scale 0, and every code stands for its minimum.")
def test_a_group_of_equal_weights_has_codes_of_zero():
    weights, scales, minima = grid_of(6, 2, 3, 4)
    scales[:, 1], weights[:, 8:16] = 0, np.repeat(minima[:, 1:2], 8, 1)
    weights[0, 9] += 1e-4  # the minimum was rounded to float16
    check_codes(weights, scales, minima, 4, ", the second group of scale 0,")


# --- 07.4 ---------------------------------------------------------------------------------------------------------------


def check_packed(codes, bits):
    expected, wrong = mistakes.stream(codes, bits), mistakes.stream_mistakes(codes, bits)
    with answers(f"pack_bits of {codes.shape[1]} codes of {bits} bits", "Do the bits of a row fill whole bytes?"):
        found = pack_bits(codes.copy(), bits)
    found = found.astype(int) if isinstance(found, np.ndarray) and found.dtype.kind in "iu" else found
    what = f"the row of bytes of the codes {' '.join(map(str, codes[0]))}, {bits} bits each,"
    check_close(found, expected, rtol=0, atol=0, what=what, mistakes=lambda: wrong)


@exercise("07.4", points=2, hint=(
    "Eight codes of 3 bits are three bytes. Write down the bits of the codes 1, 2, 3, lowest first: where does a byte end?",
    "Take each code apart into single bits, lowest first, a new last axis: codes[:, :, None] >> np.arange(bits) & 1.",
    "np.packbits(single.reshape(rows, -1), axis=1, bitorder='little') puts eight of them into a byte, the first one lowest.",
))  # fmt: skip
@given(bits=st.just(3), rows=st.integers(1, 3), eights=st.integers(1, 3), seed=seeds)
def test_codes_of_three_bits_lie_side_by_side(bits, rows, eights, seed):
    check_packed(chance(seed, 7).integers(0, 1 << bits, (rows, 8 * eights), np.uint8), bits)


@exercise("07.4", points=1, hint="Five codes of 3 bits are 15 bits: two bytes, the last bit 0. A row begins a byte of its own.")
@given(bits=st.sampled_from([3, 2, 4]), count=st.sampled_from([5, 1, 3, 7, 11, 13]), seed=seeds)
def test_the_last_byte_of_a_row_is_filled_with_zeros(bits, count, seed):
    check_packed(chance(seed, 8).integers(0, 1 << bits, (3, count), np.uint8), bits)


# --- 07.5 ---------------------------------------------------------------------------------------------------------------


def fed(seed, rows, columns, tokens):
    """A matrix and 2/n Σ x xᵀ of inputs that come in groups of likes: (weights, hessian)."""
    rng = chance(seed, 10)
    mixed = rng.standard_normal((columns, columns)) + 2 * rng.standard_normal((columns, 1))
    inputs = rng.standard_normal((tokens, columns)) @ mixed.T
    return rng.standard_normal((rows, columns)).astype(np.float32), 2 / tokens * inputs.T @ inputs


@exercise("07.5", points=3, hint=(
    "How much did column j lose, and who can still make up for it? Row j of U says by how much each of them does.",
    "error = (w_j - what came back) / U_jj; every column k behind j loses error · U_jk. `left` has the columns as its rows.",
    "errors[j - start] = (left[j] - rounded[:, 0]) / upper[j, j]; left[j + 1 : stop] -= upper[j, j + 1 : stop, None] * that.",
))  # fmt: skip
@given(bits=st.sampled_from([3, 2, 4]), groups=st.integers(1, 3), seed=seeds)
def test_columns_are_rounded_one_by_one_and_the_rest_makes_up_for_them(bits, groups, seed):
    weights, hessian = fed(seed, 3, 8 * groups, 60)
    with np.errstate(all="ignore"):
        found = gptq(weights.copy(), hessian.copy(), Grid(bits, 8)).codes
    expected = mistakes.obq(weights, hessian, bits, 8)
    what = f"the row of codes of {8 * groups} columns, {bits} bits, groups of 8,"
    wrong = lambda: mistakes.obq_mistakes(weights, hessian, bits, 8)  # noqa: E731
    check_close(found.astype(int), expected, rtol=0, atol=0, what=what, mistakes=wrong)


@exercise("07.5", points=2, hint="Does the error of a block's last column still reach the next block? See `errors`.")
@pytest.mark.parametrize("block", [8, 16])
def test_the_codes_do_not_depend_on_the_block(block):
    weights, hessian = fed(11, 4, 32, 200)
    with np.errstate(all="ignore"):
        found = gptq(weights.copy(), hessian.copy(), Grid(3, 8), block=block).codes
    what = f"the row of codes of 32 columns in blocks of {block}"
    wrong = lambda: mistakes.obq_mistakes(weights, hessian, 3, 8)  # noqa: E731
    check_close(found.astype(int), mistakes.obq(weights, hessian, 3, 8), rtol=0, atol=0, what=what, mistakes=wrong)


@exercise("07.5", points=2, hint="Rounding to nearest loses δ H δᵀ of its own. What is it once the other columns may answer?")
def test_gptq_takes_its_share_off_the_output_error():
    """40 matrices, 3 bits: a third of the output error of rounding to nearest is left on average, and never more than 80%."""
    shares = []
    for seed in range(40):
        weights, hessian = fed(seed, 6, 32, 200)
        with np.errstate(all="ignore"):
            codes = gptq(weights.copy(), hessian.copy(), Grid(3, 32)).codes
        scales, minima = mistakes.spans(weights, 3, 32, False)
        near = mistakes.codes(weights, scales, minima, 3)
        errors = [((delta @ hessian) * delta).sum() for delta in (weights - (scales * q + minima) for q in (codes, near))]
        shares.append(errors[0] / errors[1])
    mean, worst = float(np.mean(shares)), float(max(shares))
    told = f"of the output error of rounding to nearest {mean:.0%} are left on average, {worst:.0%} at worst"
    assert mean < 0.45 and worst < 0.9, f"{told}; expected under 45% and 90%. Is every error handed on, with the right sign?"


# --- 07.6 ---------------------------------------------------------------------------------------------------------------


def layer_of(seed, rows=(6, 5), columns=32, tokens=20):
    """Matrices that share inputs, of which a few columns are large: (matrices, mean |x|, inputs)."""
    rng = chance(seed, 9)
    sizes = np.exp(0.4 * rng.standard_normal(columns))
    sizes[rng.choice(columns, 3, replace=False)] *= 12
    inputs = (rng.standard_normal((tokens, columns)) * sizes).astype(np.float32)
    matrices = [rng.standard_normal((n, columns)).astype(np.float32) for n in rows]
    return matrices, np.abs(inputs).mean(0), inputs


@exercise("07.6", points=2, hint=(
    "Twenty-one values of α: for each, which scales, and what error do they leave in the outputs of all matrices?",
    "awq(w, scales, grid).dense() is the quantized W · s. Before you compare it with W, divide the scales out again.",
    "error = sum(error_on(w, awq(w, scales, grid).dense() / scales, inputs) for w in matrices); keep the scales of the least.",
))  # fmt: skip
@given(bits=st.sampled_from([3, 2, 4]), seed=seeds)
def test_the_scales_are_those_of_the_least_output_error(bits, seed):
    matrices, magnitudes, inputs = layer_of(seed)
    given = matrices, magnitudes, inputs, bits, 16, 10
    with np.errstate(all="ignore"):
        found = awq_scales(matrices, magnitudes, inputs, Grid(bits, 16), 10)
    expected = mistakes.search(*given)
    ways = mistakes.tried(magnitudes, 10)
    close = [way for way in ways if loss(way, *given) <= 1.001 * loss(expected, *given)]  # as good, to the digits of a float32
    if isinstance(found, np.ndarray) and any(found.shape == way.shape and np.allclose(found, way, rtol=1e-4) for way in close):
        return
    check_close(found, expected, rtol=1e-4, what="the scales of 32 columns", mistakes=lambda: mistakes.search_mistakes(*given))


def loss(scales, matrices, magnitudes, inputs, bits, group, steps):
    """Squared error of the outputs, with these scales."""
    wrong = [w - mistakes.rounded(w * scales, bits, group) / scales for w in matrices]
    return sum(float(np.square(inputs.astype(np.float64) @ w.T).sum()) for w in wrong)


@exercise("07.6", points=2, hint="α = 0 makes all scales 1: that is rounding to nearest. So the search can never end above it.")
def test_the_search_takes_its_share_off_the_output_error():
    """60 matrices, 3 bits, groups of 16: half of the error of rounding to nearest is left, and never more than all of it."""
    shares = []
    for seed in range(60):
        matrices, magnitudes, inputs = layer_of(seed, (8,), tokens=40)
        with np.errstate(all="ignore"):
            scales = np.asarray(awq_scales(matrices, magnitudes, inputs, Grid(3, 16)), np.float64)
        given = matrices, magnitudes, inputs, 3, 16, 20
        shares.append(loss(scales, *given) / loss(np.ones(32), *given))
    mean, worst = float(np.mean(shares)), max(shares)
    told = f"of the output error of rounding to nearest {mean:.0%} are left on average, {worst:.0%} at worst"
    assert mean < 0.6 and worst <= 1.001, f"{told}; expected under 60%, and never above 100%. Does the error choose the scales?"


# --- 07.7 ---------------------------------------------------------------------------------------------------------------

SHAPE = ModelConfig(n_layers=2, d_model=24, n_heads=3, n_kv_heads=1, d_head=8, d_ff=40, vocab_size=300, context_length=64,
                    tied=True, name="random model")  # fmt: skip


def tensors_of(seed):
    """All tensors of a small model, gains that are not 1 among them."""
    rng = chance(seed, 12)
    return {name: (1 + 0.5 * rng.standard_normal(shape) if len(shape) == 1 else rng.standard_normal(shape)).astype(np.float32)
            for name, shape in tensor_shapes(SHAPE).items()}  # fmt: skip


def check_turned(seed, stems, writes):
    tensors, r = tensors_of(seed), rotation(SHAPE.d_model, seed % 1000)
    for stem, norm in stems:
        name = f"blk.1.{stem}.weight"
        weights, gain = tensors[name], tensors[f"blk.1.{norm}.weight"]
        with answers(f"rotated_tensor of {name}", "An array of the matrix's own shape is wanted."):
            found = rotated_tensor(name, SHAPE, lambda name: tensors[name].copy(), r.copy())
        wrong = lambda weights=weights, gain=gain: mistakes.turned_mistakes(weights, gain, r, writes)  # noqa: E731
        check_close(found, mistakes.turned(weights, gain, r, writes), atol=1e-4, what=f"the rotated {name}", mistakes=wrong)


@exercise("07.7", points=2, hint=(
    "The stream is x R from now on, and norms have no gain any more. What must W become, so that its product stays the same?",
    "x · gain · Wᵀ = (x R)(W · gain · R)ᵀ, because R Rᵀ = I. The gain is that of the norm before the matrix: READS knows which.",
    "turned(get(name) * get('blk.1.attn_norm.weight'), r, name), with the layer taken from `layer`.",
))  # fmt: skip
@given(seed=seeds)
def test_what_reads_the_stream_takes_its_gain_and_its_rotation(seed):
    stems = [(stem, "attn_norm") for stem in ("attn_q", "attn_k", "attn_v")] + [("ffn_gate", "ffn_norm"), ("ffn_up", "ffn_norm")]
    check_turned(seed, stems, False)


@exercise("07.7", points=2, hint=(
    "What writes to the stream must hand out y R in place of y = h Wᵀ. Which product of W and R does that?",
    "h Wᵀ R = h (Rᵀ W)ᵀ, and Rᵀ W = (Wᵀ R)ᵀ: `turned` multiplies rows by R, so turn W over before and after.",
))  # fmt: skip
@given(seed=seeds)
def test_what_writes_to_the_stream_hands_it_out_rotated(seed):
    check_turned(seed, [("attn_output", "attn_norm"), ("ffn_down", "ffn_norm")], True)


@exercise("07.7", points=1, hint="If each tensor is right by itself, so is the whole. Vectors and biases are given.")
def test_the_rotated_model_computes_what_it_did():
    transformer = random_model(SHAPE, backend="numpy")[0]
    rng = chance(13)
    for layer in transformer.weights.layers:
        for norm in ("attn_norm", "ffn_norm"):
            getattr(layer, norm)[:] = 1 + 0.5 * rng.standard_normal(SHAPE.d_model)
    ids = rng.integers(0, 256, 12)
    logits = [np.asarray(model.forward([Segment(ids, 0, model.new_cache(12), "all")])[0])
              for model in (transformer, rotate_model(transformer, 3))]  # fmt: skip
    check_close(logits[1], logits[0], rtol=1e-3, atol=1e-3, what="the logits of the rotated model, beside those of the model,")
