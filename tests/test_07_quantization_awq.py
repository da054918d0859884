"""AWQ: scales against plain loops, folds that change no output, layers of a model; inputs of matrices; columns that matter."""

import math

import numpy as np
import pytest
from golden.tiny_models import write_tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.calibration.collect import collect
from minillm.calibration.folding import FOLDS, awq_layer, clip_and_round, factor, folded, of_values, shared
from minillm.calibration.inputs import Inputs
from minillm.calibration.layers import OpenLayer, quantize_layers
from minillm.calibration.statistics import RULES, ActivationStatistics, Channels, salience, salient
from minillm.errors import MiniLLMError, ModelError
from minillm.model.load import load_model
from minillm.model.transformer import Segment
from minillm.quantization.affine import Grid, round_to_nearest
from minillm.quantization.awq import awq, awq_scales, clip, error_on, scales_at


def drawn(seed, rows=4, columns=24, n=9):  # -> weights, inputs of which a few columns are large
    rng = np.random.default_rng(seed)
    loud = np.where(rng.random(columns) < 0.2, 20, 1)
    return rng.standard_normal((rows, columns), np.float32), (rng.standard_normal((n, columns)) * loud).astype(np.float32)


def slow_round(row, bits, group):  # [float] -> [float]: nearest step of each group's grid, in float64
    out, top = [], 2**bits - 1
    for start in range(0, len(row), group):
        part = row[start : start + group]
        scale, minimum = (float(np.float16(v)) for v in ((max(part) - min(part)) / top, min(part)))
        out += [minimum + scale * min(top, max(0, round((w - minimum) / scale))) if scale else minimum for w in part]
    return out


def slow_error(weights, rounded, inputs):  # the outputs one by one
    total = 0.0
    for x in inputs.tolist():
        for w, v in zip(weights, rounded, strict=True):
            total += sum((a - b) * c for a, b, c in zip(w, v, x, strict=True)) ** 2
    return total


def slow_errors(matrices, inputs, bits, group, steps):  # -> [(α, scales, error)]
    """Each α tried on all matrices, by the paper's formula."""
    sizes, found = [sum(abs(x) for x in column) / len(inputs) for column in inputs.T.tolist()], []
    for step in range(steps + 1):
        raw = [size ** (step / steps) for size in sizes]
        scales = [r / math.sqrt(max(raw) * min(raw)) for r in raw]
        error = 0.0
        for weights in matrices:
            scaled = [[w * s for w, s in zip(row, scales, strict=True)] for row in weights.tolist()]
            back = [[w / s for w, s in zip(slow_round(row, bits, group), scales, strict=True)] for row in scaled]
            error += slow_error(weights.tolist(), back, inputs)
        found.append((step / steps, scales, error))
    return found


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([2, 3, 4]), st.sampled_from([4, 12, 24]), st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_scales_are_the_best_that_plain_loops_find(bits, group, count, seed):
    pairs = [drawn(seed + i) for i in range(count)]
    matrices, inputs = [w for w, _ in pairs], pairs[0][1]
    scales = awq_scales(matrices, np.abs(inputs).mean(axis=0), inputs, Grid(bits, group), steps=5)
    tried = slow_errors(matrices, inputs, bits, group, 5)
    ours = [error for _, s, error in tried if np.allclose(s, scales, rtol=1e-5)]
    assert len(ours) == 1, "scales are mean |x|^α, normalized"
    assert ours[0] <= min(error for *_, error in tried) * (1 + 1e-3)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([2, 3, 4]), st.integers(1, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_outputs_are_never_worse_than_rounded_to_nearest(bits, n, symmetric, seed):
    weights, inputs = drawn(seed, n=n)
    grid = Grid(bits, 12, symmetric)
    scales = awq_scales(weights, np.abs(inputs).mean(axis=0), inputs, grid)
    ours, nearest = awq(weights, scales, grid).dense() / scales, round_to_nearest(weights, grid).dense()
    assert error_on(weights, ours, inputs) <= error_on(weights, nearest, inputs) * (1 + 1e-4)


def test_any_matrix_with_the_same_squares_gives_the_same_scales():
    weights, inputs = drawn(5, n=60)
    sizes, root = np.abs(inputs).mean(axis=0), np.linalg.cholesky(inputs.T.astype(np.float64) @ inputs).T
    grid = Grid(3, 12)
    assert (awq_scales(weights, sizes, inputs, grid) == awq_scales(weights, sizes, root, grid)).all()


def test_a_column_with_large_inputs_keeps_more():
    weights, inputs = np.random.default_rng(0).standard_normal((2, 32, 64)).astype(np.float32)
    inputs[:, 7] *= 100
    grid = Grid(3, 64)
    scales = awq_scales(weights, np.abs(inputs).mean(axis=0), inputs, grid)
    ours, nearest = awq(weights, scales, grid).dense() / scales, round_to_nearest(weights, grid).dense()
    assert scales.argmax() == 7
    assert error_on(weights, ours, inputs) < 0.3 * error_on(weights, nearest, inputs)


def test_scales_at_both_ends_and_of_columns_that_had_no_input():
    sizes = np.float32([4, 1, 0, 0.25])
    assert (scales_at(sizes, 0) == 1).all() and (scales_at(np.zeros(3), 0.7) == 1).all()
    one = scales_at(sizes, 1)
    assert one[0] / one[1:] == pytest.approx([4, 1e4, 16])
    assert one.max() * one.min() == pytest.approx(1)


def test_without_inputs_of_any_size_awq_is_rounding_to_nearest():
    weights, grid = drawn(1)[0], Grid(4, 12)
    assert (awq_scales(weights, np.zeros(24), np.zeros((3, 24)), grid) == 1).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_clipping_takes_the_best_limit_of_each_group(bits):
    """Against every limit tried by plain loops, the group's own share of the outputs alone."""
    weights, inputs = drawn(bits, rows=3, columns=24, n=7)
    weights[:, ::8] *= 4
    found = clip(weights, inputs, Grid(bits, 8), steps=4)
    cuts = 0
    for r in range(3):
        for g in range(0, 24, 8):
            part, x = weights[r, g : g + 8].tolist(), inputs[:, g : g + 8]
            largest, errors = max(map(abs, part)), {}
            for share in (1, 0.875, 0.75, 0.625, 0.5):
                cut = [max(-share * largest, min(share * largest, w)) for w in part]
                errors[share] = slow_error([part], [slow_round(cut, bits, 8)], x)
            chosen = np.abs(found[r, g : g + 8]).max() / largest
            chosen = min(errors, key=lambda share, c=chosen: abs(share - c))
            assert errors[chosen] <= min(errors.values()) * (1 + 1e-3)
            assert np.allclose(found[r, g : g + 8], np.clip(part, -chosen * largest, chosen * largest), rtol=1e-6)
            cuts += chosen < 1
    assert cuts > 0


@pytest.mark.parametrize(
    ("inputs", "sizes", "said"),
    [
        (np.ones((0, 24)), np.ones(24), "at least 1 input to calibrate on, found 0"),
        (np.ones((3, 23)), np.ones(24), r"matrices of \[24\] columns, found an array of shape \(3, 23\)"),
        (np.full((3, 24), np.nan), np.ones(24), "72 of 72 NaN or infinite"),
        (np.ones((3, 24)), np.full(24, np.inf), "finite and at least 0"),
        (np.ones((3, 24)), -np.ones(24), "at least 0, found -1"),
        (np.ones((3, 24)), np.ones(23), r"each of 24 columns, found shape \(23,\)"),
    ],
)
def test_what_says_nothing_about_a_matrix_is_refused(inputs, sizes, said):
    with pytest.raises(MiniLLMError, match=said):
        awq_scales(drawn(0)[0], sizes, inputs, Grid(4, 12))


# --- folding ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")

    def load(name):
        if name == "tiny":
            return load_model(name, "numpy")[0]
        write_tiny(name, path := folder / f"{name}.gguf")
        return load_model(path, "numpy")[0]

    return load


def logits(model, tokens=40):
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, tokens)
    return model.forward([Segment(ids, 0, model.new_cache(), "all")])[0]


def check_unchanged(found, expected):
    """1e-5 of the largest logit."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def scales_for(fold, weights, config, rng):  # random, from a half to two
    columns = getattr(weights, fold.matrices[0]).shape[1]
    drawn = np.exp2(rng.uniform(-1, 1, columns)).astype(np.float32)
    return shared(drawn, config) if fold.before == "v" else drawn


@pytest.mark.parametrize("name", ["llama", "llama_gqa3", "llama_mqa", "llama_mha", "qwen2", "qwen3", "tiny"])
def test_folded_scales_change_no_output(models, name):
    model, rng = models(name), np.random.default_rng(3)
    expected = logits(model)
    for i, weights in enumerate(model.weights.layers):
        for fold in FOLDS:
            before = weights
            weights = folded(before, fold, scales := scales_for(fold, before, model.config, rng), model.config)
            changed = getattr(weights, fold.matrices[-1]), getattr(before, fold.matrices[-1])
            np.testing.assert_allclose(changed[0], changed[1] * scales, rtol=1e-6)
        model.weights.layers[i] = weights
    check_unchanged(logits(model), expected)


def test_scales_of_heads_that_share_values_are_shared(models):
    config = models("llama_gqa3").config  # 6 heads of 8 share 2 of values
    sizes = np.arange(48, dtype=np.float32)
    found = shared(sizes, config).reshape(2, 3, 8)
    assert (found == found[:, :1]).all() and found[1, 2, 5] == np.mean([24 + 5, 32 + 5, 40 + 5])
    assert of_values(found.reshape(-1), config)[8 + 5] == found[1, 0, 5]
    with pytest.raises(ModelError, match="must share their scales"):
        of_values(sizes, config)


@pytest.mark.parametrize("scales", [np.ones(47), np.zeros(48), np.full(48, np.nan), -np.ones(48)])
def test_scales_that_cannot_be_folded_are_refused(models, scales):
    model = models("llama")
    with pytest.raises(ModelError, match="expected 48 finite scales above 0"):
        folded(model.weights.layers[0], FOLDS[0], scales.astype(np.float32), model.config)


# --- a model ------------------------------------------------------------------------------------------------------------


def chunks(model, count=3, length=32):
    return np.random.default_rng(8).integers(0, model.config.vocab_size, (count, length))


def with_loud_channels(model, times=30):
    """Channels of the residual stream whose inputs are large in every layer: rows of the embedding and of what writes to them."""
    loud = [3, 17]
    model.weights.embedding[:, loud] *= times
    for w in model.weights.layers:
        w.o[loud] *= times
        w.down[loud] *= times
    return model


def errors_of(model, grid, prepare=lambda layer: None):
    found = {}
    for layer in quantize_layers(model, chunks(model), lambda n, w, i: round_to_nearest(w, grid), prepare, least=1):
        found |= layer.errors
    return found


@pytest.mark.parametrize("name", ["mixed", "qwen2"])
def test_layers_with_loud_channels_lose_less_by_awq(models, name):
    model = with_loud_channels(models(name))
    grid = Grid(3, 8)
    nearest, ours = errors_of(model, grid), errors_of(model, grid, lambda layer: awq_layer(layer, grid))
    loud = [n for n in nearest if any(stem in n for stem in ("attn_q", "attn_k", "attn_v", "gate", "up"))]
    assert sum(ours[n] for n in loud) < 0.6 * sum(nearest[n] for n in loud)
    assert sum(ours.values()) < 0.8 * sum(nearest.values())


def test_a_prepared_layer_computes_what_it_did(models):
    model = models("mixed")
    expected = logits(model)
    for i, weights in enumerate(model.weights.layers):
        x = list(model.ops.embed(chunks(model), model.weights.embedding))
        scales = awq_layer(layer := OpenLayer(i, weights, x, model), Grid(3, 8))
        model.weights.layers[i] = layer.weights
        assert any((s != 1).any() for s in scales.values()) and layer.weights.q is not weights.q
    check_unchanged(logits(model), expected)


def test_clipping_lowers_the_error_and_leaves_queries_and_keys(models):
    model, grid = models("mixed"), Grid(3, 16)
    found = []
    for quantize in (lambda n, w, i: round_to_nearest(w, grid), lambda n, w, i: clip_and_round(n, w, i, grid)):
        layer = next(quantize_layers(model, chunks(model), quantize, least=1))
        found.append((layer.errors, layer.matrices))
    (nearest, rounded), (clipped, cut) = found
    for stem in ("attn_q", "attn_k"):
        assert (cut[name := f"blk.0.{stem}.weight"].dense() == rounded[name].dense()).all()
    assert clipped["blk.0.attn_v.weight"] < 0.97 * nearest["blk.0.attn_v.weight"]
    assert sum(clipped.values()) < 0.97 * sum(nearest.values())


def test_a_layer_that_cannot_be_scaled_is_named(models):
    model = models("mixed")
    model.weights.layers[1].down[2, 3] = np.inf
    x = list(model.ops.embed(chunks(model), model.weights.embedding))
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_down\.weight.*found 1 of 6,144 NaN"):
        awq_layer(OpenLayer(1, model.weights.layers[1], x, model), Grid(4, 8))
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.weight.*48 are left over|do not fill rows of 64"):
        awq_layer(OpenLayer(0, model.weights.layers[0], x, model), Grid(4, 7))


@pytest.mark.parametrize("tokens", [1, 5, 200])
def test_a_factor_of_the_hessian_stands_for_all_inputs(tokens):
    weights, x = drawn(4, n=tokens)
    inputs = Inputs(24, tokens)
    inputs.add(x)
    lost = error_on(weights, np.zeros_like(weights), factor(inputs))
    assert lost == pytest.approx(2 / tokens * error_on(weights, np.zeros_like(weights), x), rel=1e-3)
    assert np.isfinite(factor(Inputs(24, 0))).all()


# --- what flows in --------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_statistics_are_those_of_plain_loops(lengths, columns, seed):
    rng, channels = np.random.default_rng(seed), Channels(columns)
    parts = [(1 + rng.standard_t(3, (n, columns))).astype(np.float32) for n in lengths]
    for part in parts:
        channels.add(part)
    rows = [row for part in parts for row in part.tolist()]
    every = [value for row in rows for value in row]
    assert channels.tokens == len(rows)
    for j in range(columns):
        column = [abs(row[j]) for row in rows]
        assert channels.max_abs[j] == max(column, default=0)
        assert channels.mean_abs[j] == pytest.approx(sum(column) / max(1, len(column)), rel=1e-6)
    if len(every) < 2:
        return
    mean = sum(every) / len(every)
    second, fourth = (sum((v - mean) ** p for v in every) / len(every) for p in (2, 4))
    assert channels.kurtosis == pytest.approx(fourth / second**2, rel=1e-3)
    assert channels.peak == pytest.approx(max(map(abs, every)) / math.sqrt(sum(v * v for v in every) / len(every)), rel=1e-6)


def test_statistics_of_nothing_and_of_a_constant():
    empty, constant = Channels(3), Channels(3)
    constant.add(np.full((4, 3), 2, np.float32))
    assert math.isnan(empty.kurtosis) and math.isnan(empty.peak) and math.isnan(constant.kurtosis) and constant.peak == 1


def test_each_matrix_of_a_model_is_seen_and_loud_channels_are_found(models):
    model = with_loud_channels(models("mixed"))
    collect(model, chunks(model), seen := ActivationStatistics())
    stems = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert sorted(seen) == sorted(f"blk.{i}.{stem}.weight" for i in range(model.config.n_layers) for stem in stems)
    for i in range(model.config.n_layers):
        q = seen[f"blk.{i}.attn_q.weight"]
        assert q.tokens == 96 and seen[f"blk.{i}.attn_v.weight"] is q  # counted once, though shown three times
        assert set(np.argsort(q.mean_abs)[-2:]) == {3, 17} and q.kurtosis > 10 and q.peak > 3
        assert seen[f"blk.{i}.ffn_up.weight"] is not q


def test_inputs_that_are_not_finite_are_named():
    with pytest.raises(MiniLLMError, match=r"blk\.0\.attn_q\.weight.*not finite"):
        ActivationStatistics()("blk.0.attn_q.weight", np.float32([[1, np.inf]]))


def test_columns_chosen_by_activation_matter_and_by_weight_do_not():
    """Two columns of 200 are loud, two others have the largest weights."""
    rng = np.random.default_rng(6)
    weights, x = rng.standard_normal((20, 200)).astype(np.float32), rng.standard_normal((300, 200)).astype(np.float32)
    weights[:, [5, 150]] *= 3
    x[:, [60, 90]] *= 30
    inputs = Inputs(200, 300)
    inputs.add(x)
    assert set(np.flatnonzero(salient(weights, inputs.mean_abs, "activation", 0.01))) == {60, 90}
    assert set(np.flatnonzero(salient(weights, inputs.mean_abs, "weight", 0.01))) == {5, 150}
    lost = salience(weights, inputs, Grid(3, 50), 0.01)
    assert tuple(lost) == RULES
    assert lost["activation"] < 0.3 * lost["none"] and lost["weight"] > 0.9 * lost["none"] and lost["random"] > 0.9 * lost["none"]
    rounded = round_to_nearest(weights, Grid(3, 50)).dense()
    rounded[:, [60, 90]] = weights[:, [60, 90]]
    assert lost["activation"] == pytest.approx(error_on(weights, rounded, x) / error_on(weights, 0 * weights, x), rel=1e-3)
    assert salience(weights, inputs, Grid(3, 50), 1)["weight"] == 0


@pytest.mark.parametrize("share", [0, -1, 1.5, math.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(MiniLLMError, match="above 0 and at most 1"):
        salience(np.ones((2, 8), np.float32), Inputs(8, 1), Grid(4, 8), share)
