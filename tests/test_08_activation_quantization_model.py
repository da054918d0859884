"""Models whose products are a method's: products against loops, folds that change nothing, orders under outliers, refusals."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import walk_help
from walk_help import SHAPES

from minillm import LLM
from minillm.bench.quality import document_windows, score_windows, text_ids
from minillm.calibration.activations import METHODS, Method, simulated, smoothed
from minillm.calibration.collect import chunks_of, collect
from minillm.calibration.folding import FOLDS, with_activation_outliers
from minillm.calibration.statistics import ActivationStatistics, Channels
from minillm.calibration.texts import story_texts
from minillm.errors import MiniLLMError, ModelError
from minillm.model.transformer import Segment
from minillm.quantization.fp8 import round_e4m3, round_e5m2
from minillm.quantization.rotations import rotation


@pytest.fixture(scope="module", params=SHAPES)
def model(request, tmp_path_factory):
    return walk_help.load(walk_help.write(tmp_path_factory.mktemp(request.param) / "m.gguf", SHAPES[request.param]))


def logits(model, chunk):
    return model.forward([Segment(chunk, 0, model.new_cache(), "all")])[0]


def statistics(model, chunks):
    collect(model, chunks, seen := ActivationStatistics())
    return seen


def grid(x, scale):  # float64: nearest of 255 steps
    return np.clip(np.rint(x / scale), -127, 127) * scale


def by_rows(x):
    return np.stack([grid(row, np.abs(row).max() / 127) for row in x])


def by_tensor(x):
    return grid(x, np.abs(x).max() / 127)


def on_floats(x, rounded, largest):
    scale = np.abs(x).max() / largest
    return rounded((x / scale).astype(np.float32)).astype(np.float64) * scale


def slow_product(name, w, seen, x):  # (rows, columns), Channels, (n, columns) -> (n, rows)
    """What each method says its product is, in float64."""
    w, x = w.astype(np.float64), x.astype(np.float64)
    if name == "llm_int8":
        apart = [j for j in range(x.shape[1]) if max(abs(x[:, j])) > 6]
        rest = [j for j in range(x.shape[1]) if j not in apart]
        return x[:, apart] @ w[:, apart].T + by_rows(x[:, rest]) @ by_rows(w[:, rest]).T
    if name == "rotated":
        r = rotation(x.shape[1], 0)
        return by_tensor(x @ r) @ by_tensor(w @ r).T
    if name in ("e4m3", "e5m2"):
        form = (round_e4m3, 448) if name == "e4m3" else (round_e5m2, 57344)
        return on_floats(x, *form) @ on_floats(w, *form).T
    rounded = {"static": lambda x: grid(x, float(seen.max_abs.max()) / 127), "dynamic": by_tensor, "token": by_rows}
    how = name.removeprefix("smooth_").replace("quarot", "dynamic")
    return rounded[how](x) @ (by_rows if name == "token" else by_tensor)(w).T


@pytest.mark.parametrize("name", METHODS)
def test_a_product_is_what_its_method_says(name):
    rng = np.random.default_rng(3)
    w = rng.standard_normal((9, 24), np.float32)
    x = rng.standard_normal((7, 24), np.float32)
    x[:, 4] *= 30
    seen = Channels(24)
    seen.add(x[:4] / 2)  # a calibration that clips
    found, want = METHODS[name].product(w, seen)(x), slow_product(name, w, seen, x)
    assert found.shape == (7, 9) and found.dtype == np.float32
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=2e-3 * np.abs(want).max())
    assert np.sort(np.abs(found - want).ravel())[-12:].max() < 1e-4 or name == "rotated", "but for codes on an edge in float32"
    exact = x @ w.T
    assert np.abs(found - exact).max() > 1e-4, "something was rounded"


def test_a_model_of_exact_products_is_the_model(model):
    chunk = walk_help.ids(1)[0]
    exact = simulated(model, Method(lambda w, seen: lambda x: x @ w.T))
    assert np.array_equal(logits(exact, chunk), logits(model, chunk))
    zero = simulated(model, Method(lambda w, seen: lambda x: np.zeros((len(x), len(w)), np.float32)))
    assert not np.allclose(logits(zero, chunk), logits(model, chunk)), "and of others it is another"
    if not model.config.qkv_bias:
        embedded = model.ops.embed(chunk, model.weights.embedding)
        assert np.array_equal(logits(zero, chunk), model.head_of(embedded, np.arange(len(chunk)))), "the head stays"


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_outliers_and_smoothing_change_no_output(model, alpha):
    chunks = walk_help.ids(2)
    loud = with_activation_outliers(model, 20, 0.1)
    seen = statistics(loud, chunks)
    smooth = smoothed(loud, seen, alpha)
    want = logits(model, chunks[0])
    for other in (loud, smooth):
        np.testing.assert_allclose(logits(other, chunks[0]), want, atol=1e-5 * np.abs(want).max())
    assert not np.allclose(smooth.weights.layers[0].q, loud.weights.layers[0].q, rtol=0.01)


def test_at_a_half_activations_and_weights_are_equally_large(model):
    chunks = walk_help.ids(2)
    smooth = smoothed(model, statistics(model, chunks))
    after = statistics(smooth, chunks)
    for index, layer in enumerate(smooth.weights.layers):
        for fold in FOLDS:
            x = after[f"blk.{index}.{fold.stem}.weight"].max_abs
            w = np.max([np.abs(getattr(layer, name)).max(axis=0) for name in fold.matrices], axis=0)
            if fold.before == "v":
                x, w = (np.max(a.reshape(model.config.n_kv_heads, -1, model.config.d_head), axis=1).ravel() for a in (x, w))
            np.testing.assert_allclose(x, w, rtol=1e-3)


def test_injected_outliers_are_in_the_activations_behind_norms_alone(model):
    chunks = walk_help.ids(2)
    before, after = statistics(model, chunks), statistics(with_activation_outliers(model, 50, 0.1), chunks)
    for name in before:
        ratio = after[name].max_abs / before[name].max_abs
        if name.split(".")[2] in ("attn_output", "ffn_down"):
            np.testing.assert_allclose(ratio, 1, rtol=1e-2)
        else:
            assert np.isclose(ratio, 50, rtol=1e-2).sum() == round(0.1 * len(ratio))
            assert np.isclose(ratio, 1, rtol=1e-2).sum() == len(ratio) - round(0.1 * len(ratio))


@pytest.fixture(scope="module")
def told():
    """tiny with outliers of 50, and one held-out story."""
    llm, texts = LLM("tiny", "numpy"), story_texts()
    chunks = chunks_of(llm.tokenizer, texts.calibration, 512, 2)
    loud = with_activation_outliers(llm.transformer, 50)
    seen = statistics(loud, chunks)
    smooth = smoothed(loud, seen)
    models = {"": loud, "smooth": smooth}, {"": seen, "smooth": statistics(smooth, chunks)}
    pieces = document_windows([text_ids(llm.tokenizer, texts.held_out_documents[0])[:200]], 1024)
    return llm, models, pieces


def test_under_outliers_the_orders_of_the_papers_hold(told):
    llm, (models, seen), pieces = told
    names = ["static", "dynamic", "token", "llm_int8", "smooth_static", "smooth_dynamic", "smooth_token", "rotated", "e4m3"]
    made = []
    for name in names:
        before = METHODS[name].before
        made.append(LLM((simulated(models[before], METHODS[name], seen[before]), llm.tokenizer)))
    scores = dict(zip(names, score_windows(made, pieces, llm), strict=True))
    kl = {name: own.quality.kl for name, own in scores.items()}
    assert kl["static"] > 20 * kl["smooth_static"] and kl["dynamic"] > 20 * kl["smooth_dynamic"]
    assert kl["token"] > 20 * kl["smooth_token"] and kl["token"] > 20 * kl["llm_int8"] and kl["dynamic"] > 10 * kl["rotated"]
    assert kl["dynamic"] > 50 * kl["e4m3"], "a float's step grows with the number: an outlier costs the others no steps"
    near = scores["llm_int8"].losses - scores["llm_int8"].original_losses
    assert abs(near.mean()) < 3 * near.std() / np.sqrt(len(near)), "float within noise"


def test_methods_that_need_a_text_say_so_and_damaged_numbers_are_refused(model):
    chunk = walk_help.ids(1)
    with pytest.raises(MiniLLMError, match=r"blk\.0\.attn_q\.weight: static scales need a calibration"):
        simulated(model, METHODS["static"])
    with pytest.raises(MiniLLMError, match="expected statistics of its inputs, found none"):
        simulated(model, METHODS["smooth_static"], ActivationStatistics())
    with pytest.raises(MiniLLMError, match="at least 1 batch of activations, found 0"):
        METHODS["static"].product(np.ones((2, 3), np.float32), Channels(3))
    broken = [replace(layer, up=layer.up * np.nan) for layer in model.weights.layers]
    damaged = copy.copy(model)
    damaged.weights = replace(model.weights, layers=broken)
    for name in ("dynamic", "e4m3"):
        with pytest.raises(MiniLLMError, match="NaN or infinity"):
            simulated(damaged, METHODS[name])
    quiet = [replace(layer, ffn_norm=layer.ffn_norm * np.inf) for layer in model.weights.layers]
    damaged.weights = replace(model.weights, layers=quiet)
    for name in ("dynamic", "token", "llm_int8", "e5m2"):
        with pytest.raises(MiniLLMError, match="NaN or infinity"), np.errstate(invalid="ignore"):
            logits(simulated(damaged, METHODS[name]), chunk[0])
    with pytest.raises(MiniLLMError, match="migration strength is 0 to 1, found 2"):
        smoothed(model, statistics(model, chunk), 2.0)


def test_only_numpy_has_products_that_can_be_replaced(model):
    model = copy.copy(model)
    model.ops = replace(model.ops, name="numba")
    with pytest.raises(ModelError, match="on the numpy backend, found a model on numba"):
        simulated(model, METHODS["dynamic"])
