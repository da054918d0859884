"""Products with x in 8 bits: sums of whole numbers to the bit, for every type; what is rounded, what is refused, who says so."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_help import stored_matrix, values_of
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from our_blocks import GRIDS

from minillm import LLM, SamplingParams
from minillm.backends import get_backend
from minillm.backends.activations import ACTIVATIONS, ROUNDING, round_blocks, rounded, with_activations
from minillm.backends.numba_ import tile
from minillm.backends.numba_.simd import I32
from minillm.bench.quality import probe
from minillm.cli import main
from minillm.errors import MiniLLMError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.formats.gguf import open_gguf
from minillm.formats.requantize import requantize
from minillm.model.zoo import resolve

NUMPY, NUMBA = (with_activations(get_backend(name), "int8") for name in ("numpy", "numba"))
SCALES = {  # where a block's float16 scale lies, and its float16 minimum
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL"), (0,)), **dict.fromkeys(("Q4_1", "Q5_1", *GRIDS), (0, 2)),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip


def whole_numbers(type, rows, columns):  # -> StoredTensor whose weights are whole numbers, the same as int64
    """Random codes, those of -128 and 127 among them, with scales of 1 and minima of 3."""
    drawn, made = stored_matrix(type, rows, columns), BLOCK_TYPES[type]
    blocks = np.random.default_rng(rows).integers(0, 256, (drawn.raw.size // made.bytes, made.bytes), dtype=np.uint8)
    blocks[0], blocks[1] = 0, 255
    if type == "MXFP4":
        blocks[:, 0] = 128  # 2^1, of a table that counts halves
    for at, number in zip(SCALES.get(type, ()), (1.0, 3.0), strict=False):
        blocks[:, at : at + 2] = np.float16([number]).view(np.uint8)
    tensor = stored_matrix(type, rows, columns, raw=blocks)
    values = values_of(tensor)
    assert np.array_equal(values, np.rint(values))
    return tensor, values.astype(np.int64)


def codes_with_top(n, columns, seed, small=15):  # -> (n, columns) int64: in every block of 32 one of 127 or -127, so scale is 1
    rng = np.random.default_rng(seed)
    x = rng.integers(-small, small + 1, (n, columns))
    at = np.arange(0, columns, 32) + rng.integers(0, 32, (n, columns // 32))
    np.put_along_axis(x, at, rng.choice([-127, 127], at.shape), axis=1)
    return x


@pytest.mark.parametrize("type", ROUNDING)
def test_sums_are_those_of_int64_to_the_bit(type):
    """Scales are 1, so float32 holds every sum, which stays below 2^24: nothing may be off, of any number of tokens."""
    for rows, columns in ((17, 256), (40, 512)):
        tensor, w = whole_numbers(type, rows, columns)
        x = codes_with_top(19, columns, rows)
        x[3] = 0
        want = x @ w.T
        assert np.abs(x).astype(np.float64).max() == 127 and (np.abs(x) @ np.abs(w).T).max() < 2**24
        for ops in (NUMPY, NUMBA):
            matrix = ops.load_matrix(tensor)
            for n in (1, 2, 3, 8, 19):
                assert np.array_equal(ops.linear(x[:n].astype(np.float32), matrix), want[:n]), f"{ops.name}, {n} tokens"


@pytest.mark.parametrize("type", ["Q4_0", "Q5_1", "Q8_0", "INT8_G64", "IQ4_NL"])
@pytest.mark.parametrize("code", [0, 255])
def test_the_largest_sums_are_held(type, code):
    """All codes at an end, all of x at an end: 255 · 127 · 32 a block."""
    made = BLOCK_TYPES[type]
    blocks = np.full((16 * 128 // made.weights, made.bytes), code, np.uint8)
    for at, number in zip(SCALES[type], (1.0, 3.0), strict=False):
        blocks[:, at : at + 2] = np.float16([number]).view(np.uint8)
    tensor = stored_matrix(type, 16, 128, raw=blocks)
    w = values_of(tensor).astype(np.int64)
    x = np.stack([np.full(128, 127), np.full(128, -127), np.where(np.arange(128) % 2, 127, -127)])
    assert np.array_equal(NUMBA.linear(x.astype(np.float32), NUMBA.load_matrix(tensor)), x @ w.T)


@pytest.mark.parametrize("type", ROUNDING)
def test_a_product_is_that_of_the_rounded_x(type):
    """Numba and NumPy round alike: what is left is float32's own. Exact x is another hundred times as far."""
    tensor, rng = stored_matrix(type, 33, 512), np.random.default_rng(1)
    x = (rng.standard_normal((9, 512)) * 10.0 ** rng.integers(-3, 4, (9, 1))).astype(np.float32)
    x[2, 40], x[5, :64] = 1e4, 0  # an outlier, and blocks of zeros
    w = values_of(tensor).astype(np.float64)
    want = rounded(x).astype(np.float64) @ w.T
    atol = 2e-6 * (np.abs(x) @ np.abs(w).T) + 2e-5 * np.outer(np.abs(x).sum(axis=1), np.abs(w).max(axis=1))
    for ops in (NUMPY, NUMBA):
        assert (np.abs(ops.linear(x, ops.load_matrix(tensor)) - want) <= atol).all(), ops.name
    assert np.abs(x @ w.T - want).max() > 100 * np.abs(NUMBA.linear(x, NUMBA.load_matrix(tensor)) - want).max()


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from([32, 96]))
def test_blocks_of_x_are_rounded_as_a_loop_does_it(seed, n, columns):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, columns)) * 10.0 ** rng.integers(-20, 20)).astype(np.float32)
    x[0, : 32 * rng.integers(2)] = 0
    x[-1, -1] = [0.5, 1e4][rng.integers(2)]
    codes, scales = round_blocks(x)
    assert codes.dtype == np.int8 and scales.shape == (n, columns // 32)
    for t in range(n):
        for block in range(columns // 32):
            values = x[t, 32 * block : 32 * block + 32].tolist()
            top = max(map(abs, values))
            assert scales[t, block] == pytest.approx(top / 127, rel=1e-6)
            for code, value in zip(codes[t, 32 * block : 32 * block + 32].tolist(), values, strict=True):
                assert -127 <= code <= 127 and abs(code - (127 * value / top if top else 0)) <= 0.5 + 1e-4


def test_ties_go_to_the_even_number_and_zeros_have_no_scale():
    x = np.zeros((2, 32), np.float32)
    x[0, :6] = 127, 2.5, 3.5, -2.5, 0.5, 126.5
    codes, scales = round_blocks(x)
    assert codes[0, :6].tolist() == [127, 2, 4, -2, 0, 126] and not codes[1].any() and scales[1] == 0
    w = stored_matrix("Q8_0", 16, 32, raw=np.tile(np.r_[np.float16([1]).view(np.uint8), np.ones(32, np.uint8)], (16, 1)))
    assert NUMBA.linear(x, NUMBA.load_matrix(w)).tolist() == [[257.0] * 16, [0.0] * 16], "the same ties on numba"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_hidden(bad):
    x = np.ones((3, 64), np.float32)
    x[1, 40] = bad
    assert np.isnan(round_blocks(x)[1]).tolist() == [[False, False], [False, True], [False, False]]
    for ops in (NUMPY, NUMBA):
        found = ops.linear(x, ops.load_matrix(stored_matrix("Q4_0", 20, 64)))
        assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all(), f"{ops.name}: its token alone"


# --- the instruction, and what stands for it ----------------------------------------------------------------------------------


def four_products():
    """Compile dot_fours for one lane: total, four bytes without a sign, four with one."""

    @intrinsic
    def dot(typing, total, codes, x):
        def emit(context, b, signature, args):
            return b.extract_element(tile.dot_fours(b, *(tile.splat_int(b, a) for a in args)), ir.Constant(I32, 5))

        return types.int32(types.int32, types.int32, types.int32), emit

    return njit(lambda total, codes, x: dot(total, codes, x))


@pytest.mark.parametrize("vnni", [False, True])
def test_four_products_are_added_with_and_without_the_instruction(monkeypatch, vnni):
    if vnni and not tile.VNNI:
        pytest.skip("this processor has no vpdpbusd")
    monkeypatch.setattr(tile, "VNNI", vnni)
    found, rng = four_products(), np.random.default_rng(0)
    codes, x = rng.integers(0, 256, (200, 4)).astype(np.uint8), rng.integers(-128, 128, (200, 4)).astype(np.int8)
    codes[:4] = [[0] * 4, [255] * 4, [255] * 4, [128, 127, 255, 0]]
    x[:4] = [[-128] * 4, [-128] * 4, [127] * 4, [-128, 127, -1, 1]]
    for c, v in zip(codes, x, strict=True):
        total = int(rng.integers(-(2**20), 2**20))
        want = total + sum(int(a) * int(b) for a, b in zip(c, v, strict=True))
        assert found(np.int32(total), c.view(np.int32)[0], v.view(np.int32)[0]) == want


# --- the switch ---------------------------------------------------------------------------------------------------------------


def test_activations_are_exact_unless_somebody_says_int8():
    assert ACTIVATIONS == ("exact", "int8") and get_backend("numba").activations == get_backend("numpy").activations == "exact"
    assert with_activations(NUMBA, "int8") is NUMBA and NUMBA.activations == NUMPY.activations == "int8"
    with pytest.raises(MiniLLMError, match="activations are exact or int8, found 'int4'; did you mean 'int8'"):
        with_activations(get_backend("numpy"), "int4")
    with pytest.raises(MiniLLMError, match="cuda backend has no products with 8-bit activations; numpy and numba have"):
        with_activations(replace(get_backend("numpy"), name="cuda", int8_activations=None), "int8")
    tensor = stored_matrix("NF4", 16, 64)
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    exact = get_backend("numba")
    assert np.array_equal(NUMBA.linear(x, NUMBA.load_matrix(tensor)), exact.linear(x, exact.load_matrix(tensor)))


@pytest.fixture(scope="module")
def q8_path(tmp_path_factory):
    """tiny in Q8_0: matrices of floats have no products with x in 8 bits."""
    path = tmp_path_factory.mktemp("q8") / "q8.gguf"
    with open_gguf(resolve("tiny")) as source:
        requantize(source, path, "q8_0")
    return path


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_model_with_8_bit_activations_is_near_the_exact_one_and_not_it(q8_path, backend):
    ids = np.random.default_rng(3).integers(0, 300, 40)
    exact, int8 = (LLM(q8_path, backend, activations=kind) for kind in ACTIVATIONS)
    a, b = probe(exact, ids), probe(int8, ids)
    off = np.abs(b - a).max() / np.abs(a).max()
    assert 1e-5 < off < 0.1, off
    prompts, params = [ids[:n].tolist() for n in (1, 9, 33)], SamplingParams(max_tokens=8, ignore_eos=True)
    together = [answer.token_ids for answer in int8.generate(prompts, params)]
    assert [int8.generate(prompt, params).token_ids for prompt in prompts] == together, "alone as in a batch"


def test_generate_says_that_it_is_inexact(capsys):
    options = ["--max-tokens", "4", "--backend", "numpy", "--json", "--activations", "int8"]
    assert main(["generate", "Once upon a time", *options]) == 0
    assert len(json.loads(capsys.readouterr().out)["token_ids"]) == 4
