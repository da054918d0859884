"""Block types of our own: codes packed and unpacked, grids against slow oracles, bytes of a file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.errors import MiniLLMError
from minillm.formats.affine_blocks import AFFINE
from minillm.formats.blocks import BLOCK_TYPES, dequantize, quantize
from minillm.quantization.affine import BITS, Grid, round_to_nearest
from minillm.quantization.bits import pack_bits, packed_bytes, unpack_bits

NAMES = [f"INT{bits}_G{group}" for bits, group in AFFINE]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BITS), st.integers(1, 5), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_codes_come_back_from_their_bytes(bits, rows, count, seed):
    """Any number of codes, tails too; the bytes are those that Python's own whole numbers give."""
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, count), np.uint8)
    packed = pack_bits(codes, bits)
    assert packed.shape == (rows, packed_bytes(count, bits))
    assert (unpack_bits(packed, bits, count) == codes).all()
    row = sum(int(code) << bits * i for i, code in enumerate(codes[0]))
    assert packed[0].tobytes() == row.to_bytes(packed.shape[1], "little")


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_each_weight_takes_the_nearest_of_all_codes(bits, symmetric):
    weights = np.random.default_rng(bits).standard_normal((3, 48)).astype(np.float32)
    found = round_to_nearest(weights, Grid(bits, 16, symmetric))
    steps = np.arange(1 << bits)
    for row in range(3):
        for column in range(48):
            group = column // 16
            values = found.scales[row, group] * steps + found.minima[row, group]
            best = np.abs(values - weights[row, column]).min()
            assert abs(found.dense()[row, column] - weights[row, column]) <= best * (1 + 1e-5)
        for group in np.split(np.arange(48), 3):
            at, wide = found.scales[row, group[0] // 16], np.abs(weights[row, group])
            spread = 2 * wide.max() if symmetric else np.ptp(weights[row, group])
            assert at == pytest.approx(spread / (2**bits - 1), rel=1e-3)


@pytest.mark.parametrize("name", [*NAMES, "NF4"])
def test_a_tensor_comes_back_from_its_blocks_and_packs_to_the_same_again(name):
    kind = BLOCK_TYPES[name]
    weights = np.random.default_rng(3).standard_t(3, (3, 2 * kind.weights)).astype(np.float32)
    raw = quantize(weights, kind)
    assert len(raw) == kind.nbytes(weights.shape)
    back = dequantize(raw, kind, weights.shape)
    assert (quantize(back, kind) == raw).mean() > 0.99  # a minimum may round once more
    if name != "NF4":
        bits, group = int(name[3]), int(name.split("G")[1])
        assert (back == round_to_nearest(weights, Grid(bits, group)).dense()).all()


@pytest.mark.parametrize("bits", BITS)
def test_equal_weights_and_zeros_are_exact(bits):
    weights = np.repeat(np.float32([[0.5], [0.0], [-3.0]]), 64, axis=1)
    assert (round_to_nearest(weights, Grid(bits)).dense() == weights).all()
    assert (round_to_nearest(0 * weights, Grid(bits, symmetric=True)).dense() == 0).all()


@pytest.mark.parametrize(
    ("weights", "grid", "said"),
    [
        (np.ones((2, 100)), (4, 64), "groups of 64 weights do not fill rows of 100: 36 are left over"),
        (np.ones(64), (4, 64), "2 axes"),
        (np.ones((0, 64)), (4, 64), "at least 1 weight"),
        (np.full((2, 64), np.nan), (4, 64), "128 of 128 NaN or infinite"),
        (np.full((2, 64), 1e39), (4, 64), "NaN or infinite"),
        (np.full((2, 64), 1e30), (4, 64), "at most 65,504"),
        (np.ones((2, 64)), (5, 64), "2, 3, 4 or 8 bits, found 5"),
        (np.ones((2, 64)), (4, 0), "at least 1 weight, found 0"),
    ],
)
def test_what_cannot_be_quantized_is_said(weights, grid, said):
    with pytest.raises(MiniLLMError, match=said):
        round_to_nearest(weights, Grid(*grid))
