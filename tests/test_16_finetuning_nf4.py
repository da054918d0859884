"""NF4: the paper's levels, each weight at the nearest, the scales in eight bits, every byte counted."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.errors import MiniLLMError
from minillm.quantization.nf4 import nearest, nf4_levels, nf4_nbytes, quantize_nf4, quantize_scales

PUBLISHED = (  # Dettmers et al. 2023, Appendix E
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
GOLDEN = np.load(Path(__file__).with_name("golden") / "nf4.npz")
pytestmark = pytest.mark.filterwarnings("error")  # nothing is divided by 0 on the way
shapes = st.tuples(st.integers(1, 40), st.integers(1, 70))


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unpacked(m):  # -> (weights,) codes, by plain loops
    codes = [code for byte in m.codes.reshape(-1).tolist() for code in (byte // 16, byte % 16)]
    return np.array(codes[: m.shape[0] * m.shape[1]])


def nearest_level(weights):  # -> (weights,), in float64 and with the exact absmax of each block: the best that NF4 can do
    flat, found = np.asarray(weights, np.float64).reshape(-1), []
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        scale = max(abs(x) for x in block)
        found += [min((level * scale for level in PUBLISHED), key=lambda w, x=x: abs(w - x)) for x in block]
    return np.array(found)


def test_the_levels_are_the_published_ones():
    levels = nf4_levels()
    assert levels.dtype == np.float32 and levels.shape == (16,)
    assert np.abs(levels - PUBLISHED).max() < 2e-7
    assert levels[0] == -1 and levels[7] == 0 and levels[15] == 1, "the ends and 0 are exact"


def test_neighbouring_levels_are_evenly_spaced_in_probability():
    """By the normal distribution's own integral, on each side of 0: what "quantile" means, whatever inverts it."""
    edge = 1 - 0.9677083  # bitsandbytes' offset
    top = 1.8481308  # standard deviations: the quantile of 0.9677083
    share = [(1 + math.erf(level * top / math.sqrt(2))) / 2 for level in nf4_levels().tolist()]
    assert np.allclose(np.diff(share[:8]), (0.5 - edge) / 7, atol=1e-6)
    assert np.allclose(np.diff(share[7:]), (0.5 - edge) / 8, atol=1e-6)


def test_codes_and_levels_are_those_of_bitsandbytes():
    weights = GOLDEN["weights"].astype(np.float32) / 2**15
    weights.reshape(-1, 64)[20] *= 1e6
    m = quantize_nf4(weights)
    assert np.array_equal(m.codes, GOLDEN["codes"])
    assert np.abs(nf4_levels() - GOLDEN["levels"]).max() < 2e-7


def test_with_the_scales_in_eight_bits_weights_are_no_further_off_than_those_of_bitsandbytes():
    weights = GOLDEN["weights"].astype(np.float32) / 2**15  # without the block that is a million times larger
    rest = np.delete(np.arange(48), 20)
    ours = quantize_nf4(weights.reshape(-1, 64)[rest]).dense()
    theirs = GOLDEN["dense"].reshape(-1, 64)[rest]  # with float32 scales
    assert np.abs(ours - theirs).max() < 0.005 * np.abs(theirs).max()
    block = GOLDEN["dense_double"].reshape(-1, 64)[20]  # theirs, of the largest block: the end of both scales' range
    weights.reshape(-1, 64)[20] *= 1e6
    ours = quantize_nf4(weights).dense().reshape(-1, 64)[20]
    assert np.allclose(ours, block, rtol=1e-5)


@given(shape=shapes, seed=st.integers(0, 99), spread=st.sampled_from([1e-20, 1.0, 1e20]))
def test_every_weight_is_at_the_level_nearest_to_it(shape, seed, spread):
    weights = normal(shape, seed) * np.float32(spread)
    m = quantize_nf4(weights)
    best = nearest_level(weights).reshape(shape)
    absmax = np.abs(np.pad(weights.reshape(-1), (0, -weights.size % 64)).reshape(-1, 64)).max(axis=1)
    code_of = np.array(PUBLISHED)[unpacked(m)] * np.repeat(absmax, 64)[: weights.size]
    assert np.allclose(code_of.reshape(shape), best, rtol=1e-6, atol=1e-6 * spread), "a code is not that of the nearest level"
    dense = m.dense()
    assert dense.shape == shape and dense.dtype == np.float32 and dense.flags.c_contiguous
    scales = np.abs(m.absmax() - absmax).max()  # what eight bits a scale cost
    assert scales <= np.abs(absmax - absmax.mean()).max() / 254 + 1e-6 * absmax.max()
    assert np.abs(dense - best).max() <= scales + 1e-6 * absmax.max()


@given(shape=shapes, scale=st.sampled_from([1.0, 0.02, 3e-38, 1e30]))
def test_a_matrix_of_levels_comes_back_as_it_was(shape, scale):
    """Every block holds the largest level, so all scales are the mean, and nothing is left to round."""
    weights = nf4_levels()[np.arange(shape[0] * shape[1]) % 16] * np.float32(scale)
    weights[::64] = -scale
    weights = weights.reshape(shape)
    assert np.allclose(quantize_nf4(weights).dense(), weights, rtol=2e-7)


def test_zeros_stay_zero_and_a_block_of_them_among_large_ones_too():
    assert not quantize_nf4(np.zeros((3, 50))).dense().any()
    weights = normal((10, 64))
    weights[3], weights[4, 1:] = 0, 0
    dense = quantize_nf4(weights).dense()
    assert not dense[3].any() and not dense[4, 1:].any() and dense[4, 0] != 0


def test_a_scale_never_turns_negative():
    """Scales 0, 1 and 3, mean 4/3: the first is -4/3 away, 101.6 steps of (5/3)/127, rounds to 102, and would be -0.005."""
    weights = np.outer([1e-6, 1, 3], np.linspace(-1, 1, 64)).astype(np.float32)
    m = quantize_nf4(weights)
    assert m.scales[0] == -102 and m.absmax()[0] == 0
    assert (m.dense() * weights >= 0).all(), "a weight changed its sign"


@given(blocks=st.integers(1, 600), seed=st.integers(0, 99))
def test_scales_are_off_by_half_a_step_of_their_own_group(blocks, seed):
    absmax = np.abs(normal((blocks,), seed)) + np.float32(2)
    absmax[:256] *= 10  # two groups, of unequal spread
    scales, steps, mean = quantize_scales(absmax)
    assert len(scales) == blocks and scales.dtype == np.int8 and len(steps) == -(-blocks // 256)
    assert mean == pytest.approx(sum(absmax.tolist()) / blocks, rel=1e-6)
    for group, step in enumerate(steps):
        part = slice(256 * group, 256 * group + 256)
        assert step == pytest.approx(np.abs(absmax[part] - mean).max() / 127, rel=1e-6, abs=1e-37)
        assert np.abs(scales[part] * step + mean - absmax[part]).max() <= 0.501 * step + 1e-5


@given(shape=shapes)
def test_bytes_are_counted_with_all_that_fills_up_the_last_block(shape):
    m, n = quantize_nf4(normal(shape)), shape[0] * shape[1]
    blocks = math.ceil(n / 64)
    right = 32 * blocks + blocks + 4 * math.ceil(blocks / 256) + 4  # codes, scales, their scales, the mean
    assert m.nbytes == nf4_nbytes(shape) == right
    assert m.nbytes == sum(getattr(m, name).nbytes for name in ("codes", "scales", "steps", "mean"))
    assert m.bits_per_weight == 8 * right / n


def test_a_matrix_of_a_real_size_takes_4_127_bits_a_weight():
    m = quantize_nf4(normal((576, 1536)))
    assert m.bits_per_weight == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-4) and m.bits_per_weight < 4.2


@pytest.mark.parametrize("bend", [lambda error: error**2, np.abs], ids=["squared", "absolute"])
def test_on_normal_weights_its_error_is_below_that_of_evenly_spaced_levels(bend):
    """Sixteen even levels with the same blocks of 64: as Q4_0 lays them (-8 … 7, the largest at -8), and symmetric (-7 … 7)."""
    weights = normal((400, 64), 3)
    largest = weights[np.arange(400), np.abs(weights).argmax(axis=1)][:, None]
    q4_0 = np.clip(np.rint(weights / (largest / -8)), -8, 7) * (largest / -8)
    symmetric = np.rint(weights / (largest / 7)) * (largest / 7)
    error = bend(quantize_nf4(weights).dense() - weights).mean()
    assert error < 0.97 * bend(q4_0 - weights).mean() and error < 0.85 * bend(symmetric - weights).mean()


def test_on_evenly_spread_weights_it_is_not():
    """No free lunch: its levels are placed for one distribution."""
    weights = np.random.default_rng(0).uniform(-1, 1, (400, 64)).astype(np.float32)
    scale = np.abs(weights).max(axis=1, keepdims=True) / 7
    even = np.rint(weights / scale) * scale
    assert ((quantize_nf4(weights).dense() - weights) ** 2).mean() > 1.1 * ((even - weights) ** 2).mean()


def test_the_nearest_of_every_float_between_two_levels():
    levels = nf4_levels().astype(np.float64)
    x = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2 - 1e-6, (levels[1:] + levels[:-1]) / 2 + 1e-6])
    right = [min(range(16), key=lambda i, value=value: abs(levels[i] - value)) for value in x]
    assert nearest(x.astype(np.float32)).tolist() == right


def test_other_types_and_strides_are_read_by_value():
    weights = normal((12, 40))
    for other in (weights.astype(np.float64), np.asfortranarray(weights), normal((40, 12)).T):
        assert np.array_equal(quantize_nf4(other).dense(), quantize_nf4(np.array(other, np.float32, order="C")).dense())


@pytest.mark.parametrize("bad, told", [
    (np.zeros(64), r"2 axes .*found shape \(64,\)"), (np.zeros((2, 3, 4)), r"found shape \(2, 3, 4\)"),
    (np.zeros((0, 64)), "at least 1 weight"), (np.float32(1), r"found shape \(\)"),
    (np.array([[1, np.nan, 2, np.nan]]), "found 2 of 4 "), (np.array([[1, -np.inf]]), "found 1 of 2 "),
    (np.array([[1e300, 2.0]]), "found 1 of 2 "),
])  # fmt: skip
def test_what_cannot_be_packed_is_refused(bad, told):
    with pytest.raises(MiniLLMError, match=told):
        quantize_nf4(bad)
