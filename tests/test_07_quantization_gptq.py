"""GPTQ on arrays: against the normal equations, one column after another, and against llm-compressor's codes and errors."""

from pathlib import Path

import numpy as np
import pytest
from golden import gptq_draws as draws
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.calibration.inputs import Inputs, output_error
from minillm.errors import MiniLLMError
from minillm.quantization.affine import AffineMatrix, Grid, round_to_nearest
from minillm.quantization.gptq import gptq, inverse_factor

RECORDED = np.load(Path(__file__).parent / "golden" / "gptq.npz")


def hessian(inputs):  # (n, columns) -> (columns, columns) float64
    return 2 / len(inputs) * inputs.T.astype(np.float64) @ inputs.astype(np.float64)


def grid_of(weights, bits, symmetric):  # (rows, group) float32 -> scales, minima (rows,) float32 that float16 holds
    """The grid of one group, written out anew."""
    if symmetric:
        half = 2 ** (bits - 1)
        scale = np.float16(2 * np.abs(weights).max(axis=1) / np.float32(2**bits - 1)).astype(np.float32)
        return scale, -half * scale
    low, high = weights.min(axis=1), weights.max(axis=1)
    scale = np.float16((high - low) / np.float32(2**bits - 1)).astype(np.float32)
    return scale, np.float16(low).astype(np.float32)


def slow(weights, h, bits, group, symmetric, damping, act_order):  # -> codes uint8, dense
    """For each column, all others that are still floats are solved for anew: where the error's gradient is 0.

    With D = Ŵ - W of the columns that are done, the rest changes by -D H_done,rest (H_rest,rest)⁻¹: the normal equations of the
    whole error so far. Nothing is carried from one column to the next, and no inverse is updated.
    """
    w = weights.astype(np.float64)
    h = np.array(h, np.float64)
    h[np.diag_indices(len(h))] += damping * np.diag(h).mean()
    order = sorted(range(len(h)), key=lambda j: -h[j, j]) if act_order else list(range(len(h)))
    codes, dense = np.zeros(w.shape, np.uint8), np.zeros(w.shape)
    grids = {g: grid_of(weights[:, g * group : (g + 1) * group], bits, symmetric) for g in range(len(h) // group)}
    for position, column in enumerate(order):
        done, rest = order[:position], order[position:]
        now = w[:, rest]
        if done:
            now = now - (dense[:, done] - w[:, done]) @ h[np.ix_(done, rest)] @ np.linalg.inv(h[np.ix_(rest, rest)])
        g = column // group
        if not act_order and column % group == 0:
            grids[g] = grid_of(now[:, :group].astype(np.float32), bits, symmetric)
        scale, low = grids[g]
        step = np.where(scale == 0, 1, scale)
        codes[:, column] = np.clip(np.rint((now[:, 0].astype(np.float32) - low) / step), 0, 2**bits - 1)
        dense[:, column] = scale * codes[:, column] + low
    return codes, dense


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([2, 3, 4, 8]), st.sampled_from([1, 3, 8, 12, None]), st.booleans(), st.sampled_from([0.001, 0.01, 0.3]),
    st.booleans(), st.integers(1, 5), st.sampled_from([1, 5, 9, 24, 128]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_codes_are_those_of_the_normal_equations(bits, group, symmetric, damping, act_order, rows, block, seed):
    """Whatever the block: updates within it and behind it add up to what solving anew gives."""
    weights, inputs = draws.draw(seed, (rows, 24), 60)
    found = gptq(weights, hessian(inputs), Grid(bits, group, symmetric), damping, act_order, block)
    codes, dense = slow(weights, hessian(inputs), bits, group or 24, symmetric, damping, act_order)
    assert (found.codes == codes).all()
    np.testing.assert_allclose(found.dense(), dense, rtol=1e-5, atol=1e-6)
    for values in (found.scales, found.minima):
        assert values.dtype == np.float32 and (values == values.astype(np.float16)).all()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_on_one_grid_the_codes_are_llm_compressors(seed, bits):
    """It computes in float32: of 2,304 codes, one or another near a half might differ. Errors within 5%."""
    weights, inputs = draws.draw(seed)
    found = gptq(weights, hessian(inputs), Grid(bits, draws.GROUP), act_order=True)
    theirs = AffineMatrix(found.grid, RECORDED[f"codes {seed} {bits}"], found.scales, found.minima)
    assert (found.codes == theirs.codes).mean() > 0.98
    ratio = draws.lost(weights, found.dense(), inputs) / draws.lost(weights, theirs.dense(), inputs)
    assert 0.95 < ratio < 1.05


def test_errors_on_a_models_matrices_are_within_5_percent_of_llm_compressors_and_below_rtns():
    """Each on grids of its own: ours has a minimum in float16, theirs a whole zero point."""
    matrices = draws.tiny()
    assert [name for name, *_ in matrices] == list(RECORDED["names"])
    for bits, order in draws.OWN:
        ours, rtn, grid = [], [], Grid(bits, 64)
        for _, weights, inputs in matrices:
            h = hessian(inputs)
            ours.append(output_error(weights, gptq(weights, h, grid, act_order=order == "act-order").dense(), h))
            rtn.append(output_error(weights, round_to_nearest(weights, grid).dense(), h))
        theirs = RECORDED[f"own {bits} {order}"]
        assert 0.95 < sum(ours) / theirs.sum() < 1.05
        assert (np.array(ours) < 1.05 * theirs).all()
        assert (np.array(ours) < rtn).all() and sum(ours) < 0.8 * sum(rtn)


def test_99_of_100_drawn_matrices_lose_less_than_by_rounding_to_nearest():
    """Bits, grid and order vary. All 100 do on these seeds, which every run draws anew."""
    ratios = []
    for seed in range(100):
        weights, inputs = draws.draw(1000 + seed, (8, 48), 128)
        grid = Grid((2, 3, 4)[seed % 3], 16, bool(seed % 2))
        made = gptq(weights, hessian(inputs), grid, act_order=seed % 4 < 2).dense()
        ratios.append(draws.lost(weights, made, inputs) / draws.lost(weights, round_to_nearest(weights, grid).dense(), inputs))
    assert sum(ratio < 1 for ratio in ratios) >= 99
    assert np.mean(ratios) < 0.5


@pytest.mark.parametrize("act_order", [False, True])
def test_columns_that_never_come_together_are_rounded_to_nearest(act_order):
    weights, _ = draws.draw(3)
    diagonal = np.diag(np.linspace(1, 9, 96))
    found = gptq(weights, diagonal, Grid(3, 32), act_order=act_order)
    assert (found.codes == round_to_nearest(weights, Grid(3, 32)).codes).all()


@pytest.mark.parametrize("act_order", [False, True])
def test_a_column_without_inputs_is_rounded_to_nearest_and_harms_nobody(act_order):
    weights, inputs = draws.draw(4)
    inputs[:, [0, 17, 95]] = 0
    weights[:, 17] *= 100
    found = gptq(weights, hessian(inputs), Grid(4, 32), act_order=act_order)
    plain = round_to_nearest(weights, Grid(4, 32))
    assert draws.lost(weights, found.dense(), inputs) < draws.lost(weights, plain.dense(), inputs)
    error, step = np.abs(found.dense() - weights)[:, [0, 17, 95]], found.scales[:, [0, 0, 2]]
    assert (error <= step * 0.51 + 1e-2 * np.abs(weights[:, [0, 17, 95]])).all()
    assert (gptq(weights, 0 * hessian(inputs), Grid(4, 32), act_order=act_order).codes == plain.codes).all()  # none at all


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_singular_hessian_is_damped_more_never_nan(scale):
    """8 inputs for 96 columns, and no damping: the Hessian has 88 eigenvalues of 0."""
    weights, inputs = draws.draw(5)
    h = hessian(inputs[:8]) * scale
    found = gptq(weights, h, Grid(4, 32), damping=0)
    assert np.isfinite(found.dense()).all()
    assert draws.lost(weights, found.dense(), inputs[:8]) < 0.25 * draws.lost(
        weights, round_to_nearest(weights, Grid(4, 32)).dense(), inputs[:8]
    )
    assert (found.codes == gptq(weights, h, Grid(4, 32), damping=0.01).codes).all()


@pytest.mark.parametrize("seed", [6, 15, 19])
def test_a_factor_that_rounding_made_is_not_taken(seed):
    """Two inputs are equal, and Cholesky goes through all the same, by a pivot that is a rounding error: U has 10^8 in it."""
    weights, inputs = draws.draw(seed, (4, 16), 40)
    inputs[:, -1 - seed % 3 :] = inputs[:, : 1 + seed % 3]
    h = hessian(inputs) / np.abs(hessian(inputs)).max()
    assert np.abs(inverse_factor(h, 0.0)).max() < 1e3
    assert np.isfinite(gptq(weights, h, Grid(4, 8), damping=0).dense()).all()


def test_the_factor_is_that_of_the_inverse():
    h = hessian(draws.draw(6, (1, 24), 60)[1])
    upper = inverse_factor(h, 0.01)
    assert (upper == np.triu(upper)).all() and (np.diag(upper) > 0).all()
    damped = h + 0.01 * np.diag(h).mean() * np.eye(24)
    np.testing.assert_allclose(upper.T @ upper @ damped, np.eye(24), atol=1e-9)


def test_equal_weights_stay_exact():
    weights = np.repeat(np.float32([[0.5], [0.0], [-3.0]]), 32, axis=1)
    found = gptq(weights, hessian(draws.draw(7, (1, 32), 64)[1]), Grid(2, 16))
    assert (found.dense() == weights).all()


def changed(h, at, value):
    h = h.copy()
    h[at] = value
    return h


H = hessian(draws.draw(8, (1, 32), 64)[1])
BAD = {
    "another width": (np.ones((2, 64)), H, {}, r"the Hessian of 64 columns has shape \(64, 64\), found \(32, 32\)"),
    "NaN": (np.ones((2, 32)), changed(H, (0, 3), np.nan), {}, "finite Hessian; found 1 of 1,024"),
    "not symmetric": (np.ones((2, 32)), changed(H, (0, 3), 1e3), {}, "symmetric"),
    "a negative square": (np.ones((2, 32)), changed(H, (3, 3), -1.0), {}, "squares on its diagonal"),
    "no squares": (np.ones((2, 32)), np.ones((32, 32)) - 2 * np.eye(32) + 2 * np.diag(np.ones(32)) - 9 * (np.eye(32) == 0),
                   {}, "not positive definite even with 100% of its mean diagonal"),
    "damping below 0": (np.ones((2, 32)), H, {"damping": -0.1}, "0 or more; found -0.1"),
    "damping of NaN": (np.ones((2, 32)), H, {"damping": np.nan}, "0 or more; found nan"),
    "groups": (np.ones((2, 32)), H, {"grid": Grid(4, 24)}, "groups of 24 weights do not fill rows of 32"),
    "weights of NaN": (np.full((2, 32), np.nan), H, {}, "64 of 64 NaN or infinite"),
    "one axis": (np.ones(32), H, {}, "2 axes"),
    "large weights": (np.full((2, 32), 1e30), H, {}, "at most 65,504"),
}  # fmt: skip


@pytest.mark.parametrize(("weights", "h", "options", "says"), BAD.values(), ids=BAD)
def test_what_cannot_be_quantized_is_said(weights, h, options, says):
    with pytest.raises(MiniLLMError, match=says) as error:
        gptq(weights, h, **{"grid": Grid(4, 16)} | options)
    assert "\n" not in str(error.value)


def test_inputs_of_a_model_give_that_hessian():
    weights, inputs = draws.draw(9)
    seen = Inputs(96, len(inputs))
    for chunk in np.array_split(inputs, 5):
        seen.add(chunk)
    np.testing.assert_allclose(seen.hessian, hessian(inputs), rtol=1e-5, atol=1e-4)
    assert (gptq(weights, seen.hessian, Grid(4, 32)).codes == gptq(weights, hessian(inputs), Grid(4, 32)).codes).mean() > 0.98
