"""The walk over layers: what each matrix sees, what is handed on, what is in memory, and texts that are too short."""

import lzma
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walk_help import LLAMA, SHAPES, Same, ids, load, parameters, write

from minillm import LLM
from minillm.calibration.collect import chunks_of, collect
from minillm.calibration.inputs import Inputs, output_error
from minillm.calibration.layers import SITES, quantize_layers
from minillm.calibration.quantize_file import quantize_file
from minillm.calibration.recipe import Recipe
from minillm.calibration.streamed import StreamedLayers, streamed_model
from minillm.errors import MiniLLMError
from minillm.formats.gguf import open_gguf
from minillm.model.adapters import FIELDS
from minillm.model.transformer import Segment
from minillm.quantization.affine import AffineMatrix, Grid, round_to_nearest
from minillm.quantization.gptq import gptq

ORDER = [stem for site in SITES for stem in site]
CORPUS = Path(__file__).parents[1] / "data/corpus/morals.txt.xz"


def rough(name, weights, inputs):
    return round_to_nearest(weights, Grid(3, 16))


def inputs_of(transformer, chunks):  # -> {name: (tokens, columns)}: what collect.py, which knows nothing of the walk, sees
    seen = {}
    collect(transformer, chunks, lambda name, x: seen.setdefault(name, []).append(x.copy()))
    return {name: np.concatenate(parts) for name, parts in seen.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_matrix_sees_what_it_will_see_in_the_quantized_model(tmp_path, shape):
    """The model of all quantized matrices, run by collect, feeds each what the walk said it would."""
    config, chunks = SHAPES[shape], ids()
    weights = parameters(config)
    model = load(write(tmp_path / "float.gguf", config))
    seen, quantized, errors = {}, {}, {}

    def quantize(name, matrix, inputs):
        assert (matrix == weights[name]).all() and name not in seen
        seen[name] = inputs
        return rough(name, matrix, inputs)

    for layer in quantize_layers(model, chunks, quantize):
        assert set(layer.matrices) == set(layer.errors) == {layer.name(stem) for stem in FIELDS}
        quantized |= {name: made.dense() for name, made in layer.matrices.items()}
        errors |= layer.errors
    assert list(seen) == [f"blk.{i}.{stem}.weight" for i in range(config.n_layers) for stem in ORDER]
    after = load(write(tmp_path / "quantized.gguf", config, quantized))
    expected = inputs_of(after, chunks)
    for name, inputs in seen.items():
        x = expected[name].astype(np.float64)
        assert inputs.tokens == len(x) == chunks.size
        np.testing.assert_allclose(inputs.hessian, 2 / len(x) * x.T @ x, rtol=1e-3, atol=1e-3 * np.abs(inputs.hessian).max())
        np.testing.assert_allclose(inputs.mean_abs, np.abs(x).mean(axis=0), rtol=1e-3, atol=1e-4)
        lost = np.square(x @ (weights[name] - quantized[name]).T).sum() / np.square(x @ weights[name].T).sum()
        assert errors[name] == pytest.approx(lost, rel=1e-3)
    for chunk, x in zip(chunks, layer.x, strict=True):  # and the walk ends where the quantized model does
        out, _ = after.hidden([Segment(chunk, 0, after.new_cache())])
        np.testing.assert_allclose(x, out, rtol=1e-3, atol=1e-3)


def test_a_quantizer_that_loses_nothing_leaves_the_model_as_it_is(tmp_path):
    model = load(write(tmp_path / "m.gguf"))
    before = [{name: getattr(layer, name) for name in FIELDS.values()} for layer in model.weights.layers]
    for layer in quantize_layers(model, ids(), lambda name, weights, inputs: Same(weights)):
        assert set(layer.errors.values()) == {0.0}
    (last, _) = model.hidden([Segment(ids()[0], 0, model.new_cache())])
    np.testing.assert_allclose(layer.x[0], last, rtol=1e-4, atol=1e-5)
    list(quantize_layers(model, ids(), rough))
    for layer, kept in zip(model.weights.layers, before, strict=True):
        assert all(getattr(layer, name) is matrix for name, matrix in kept.items())


def test_what_prepare_changes_is_what_is_quantized(tmp_path):
    """A norm's gain halved and the columns behind it doubled: the same function, and each sees the other."""
    model, seen = load(write(tmp_path / "m.gguf")), []
    floats = inputs_of(model, ids())

    def fold(layer):
        assert set(layer.matrices) == set() and not layer.halfway
        before = {stem: layer.inputs(stem).hessian for stem in ("attn_output", "ffn_gate", "ffn_down")}
        for stem, hessian in before.items():
            x = floats[layer.name(stem)].astype(np.float64)
            np.testing.assert_allclose(hessian, 2 / len(x) * x.T @ x, rtol=1e-3, atol=1e-3)
        w = layer.weights
        layer.weights = replace(w, attn_norm=w.attn_norm / 2, q=w.q * 2, k=w.k * 2, v=w.v * 2)
        for stem, hessian in before.items():
            np.testing.assert_allclose(layer.inputs(stem).hessian, hessian, rtol=1e-3, atol=1e-3)

    plain = list(quantize_layers(model, ids(), lambda name, weights, inputs: Same(weights)))

    def quantize(name, weights, inputs):
        seen.append((name, weights, inputs.mean_abs))
        return Same(weights)

    for layer in quantize_layers(model, ids(), quantize, fold):
        assert (layer.weights.attn_norm == model.weights.layers[layer.index].attn_norm / 2).all()
    assert (seen[0][1] == 2 * model.weights.layers[0].q).all()
    assert (seen[3][1] == model.weights.layers[0].o).all()
    np.testing.assert_allclose(layer.x[0], plain[-1].x[0], rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_statistics_are_those_of_all_inputs_however_they_come(lengths, columns, most, seed):
    x = np.random.default_rng(seed).standard_normal((sum(lengths), columns)).astype(np.float32)
    seen = Inputs(columns, len(x), most)
    for chunk in np.split(x, np.cumsum(lengths)[:-1]):
        seen.add(chunk)
    hessian = [[2 / len(x) * sum(float(row[i]) * float(row[j]) for row in x) for j in range(columns)] for i in range(columns)]
    np.testing.assert_allclose(seen.hessian, hessian, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen.mean_abs, [sum(abs(float(v)) for v in column) / len(x) for column in x.T], rtol=1e-5)
    every = -(-len(x) // most)
    assert len(seen.sample) <= most and (seen.sample == x[::every]).all()


def test_the_error_of_outputs_follows_from_the_hessian():
    rng = np.random.default_rng(2)
    weights, x = rng.standard_normal((5, 8)), rng.standard_normal((40, 8))
    rounded = weights + rng.standard_normal((5, 8)) / 10
    expected = np.square(x @ (weights - rounded).T).sum() / np.square(x @ weights.T).sum()
    assert output_error(weights, rounded, x.T @ x) == pytest.approx(expected)
    assert output_error(weights, weights, x.T @ x) == 0
    assert output_error(0 * weights, 0 * weights, x.T @ x) == 0
    assert output_error(0 * weights, rounded, x.T @ x) == float("inf")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_streamed_model_has_the_layers_and_the_rows_of_the_file(tmp_path, shape):
    path = write(tmp_path / "m.gguf", SHAPES[shape])
    whole, tokens = load(path), np.array([5, 299, 5, 0])
    with open_gguf(path) as source:
        model = streamed_model(source)
        assert (model.weights.embedding[tokens] == whole.weights.embedding[tokens]).all()
        assert len(model.weights.layers) == len(whole.weights.layers)
        for layer, expected in zip(model.weights.layers[:], whole.weights.layers, strict=True):
            for name in layer.__slots__:
                found, wanted = getattr(layer, name), getattr(expected, name)
                assert found is wanted is None or (found.dtype == np.float32 and (found == wanted).all())
        out, expected = (m.hidden([Segment(tokens, 0, m.new_cache())])[0] for m in (model, whole))
        assert (out == expected).all()


@pytest.mark.parametrize("way", ["walk", "rtn", "gptq"])
def test_one_layer_of_floats_is_in_memory_at_a_time(tmp_path, monkeypatch, way):
    """When the next one is read, the matrices of the last are gone: those of the file, and those that were made of codes."""
    path, alive = write(tmp_path / "m.gguf", replace(LLAMA, n_layers=4)), []
    original, dense = StreamedLayers.__getitem__, AffineMatrix.dense

    def watched(self, index):
        assert not any(matrix() is not None for matrix in alive), f"layer {index} is read while another is there"
        layer = original(self, index)
        alive.extend(weakref.ref(getattr(layer, name)) for name in FIELDS.values())
        return layer

    def made(self):
        out = dense(self).copy()
        alive.append(weakref.ref(out))
        return out

    monkeypatch.setattr(StreamedLayers, "__getitem__", watched)
    monkeypatch.setattr(AffineMatrix, "dense", made)
    with open_gguf(path) as source:
        if way == "walk":
            walk = quantize_layers(streamed_model(source), ids(), rough)
            while (layer := next(walk, None)) is not None:
                del layer
        else:
            quantize_file(source, tmp_path / "new.gguf", Recipe(way, Grid(4, 32)), ids() if way == "gptq" else ())
    assert len(alive) == 4 * 7 * (1 if way == "rtn" else 2)


BAD = {
    "no text": ({"chunks": []}, "at least 96 tokens, as many as the widest matrix has columns; found 0"),
    "95 tokens": ({"chunks": ids(5, 19)}, "at least 96 tokens, as many as the widest matrix has columns; found 95"),
    "no text, few asked for": ({"chunks": [], "least": 0}, "at least 1 tokens.*found 0"),
    "a token that is none": ({"chunks": [[0] * 100, [300]]}, "token ids must be 0 to 299"),
    "a chunk of nothing": ({"chunks": [[0] * 100, []]}, "at least one token"),
    "a chunk beyond the context": ({"chunks": [[0] * 129]}, "129 tokens do not fit the model's context of 128"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "says"), BAD.values(), ids=BAD)
def test_a_text_that_is_none_is_refused_before_the_walk(tmp_path, options, says):
    model = load(write(tmp_path / "m.gguf"))
    with pytest.raises(MiniLLMError, match=says):
        next(quantize_layers(model, quantize=lambda *_: pytest.fail("quantized"), **options))


def test_96_tokens_are_enough_and_fewer_where_they_are_asked_for(tmp_path):
    model = load(write(tmp_path / "m.gguf"))
    for chunks, least in ((ids(3, 32), None), (ids(1, 5), 5)):
        assert len(list(quantize_layers(model, chunks, rough, least=least))) == 2


@pytest.mark.parametrize("value", [np.nan, 1e25])
def test_inputs_that_are_not_finite_are_said_with_the_matrix(tmp_path, value):
    """1e25 is finite, its square is not: no Hessian can be made of it."""
    gain = np.ones(64, np.float32)
    gain[5] = value
    model = load(write(tmp_path / "m.gguf"))
    model.weights.layers[1].ffn_norm = gain
    with np.errstate(all="ignore"), pytest.raises(MiniLLMError, match=r"inputs of 'blk\.1\.ffn_gate\.weight' must be finite"):
        list(quantize_layers(model, ids(), lambda name, w, inputs: Same(w)))


def test_a_model_on_another_backend_is_refused():
    class Elsewhere:
        ops = type("Ops", (), {"name": "numba"})

    with pytest.raises(MiniLLMError, match="on the numpy backend, found a model on numba"):
        next(quantize_layers(Elsewhere(), ids(), rough))


def test_progress_adds_up_to_all_weights(tmp_path):
    model, done = load(write(tmp_path / "m.gguf")), []
    list(quantize_layers(model, ids(), rough, progress=done.append))
    assert sum(done) == sum(getattr(layer, name).size for layer in model.weights.layers for name in FIELDS.values())
    assert len(done) == 14


def layer_errors(llm, text, context, count, bits=3):  # -> GPTQ's and RTN's errors, (layers, matrices), on the same inputs
    grid, both = Grid(bits, 64), []

    def quantize(name, weights, inputs):
        hessian = inputs.hessian
        made = gptq(weights, hessian, grid)
        both.append([output_error(weights, q.dense(), hessian) for q in (made, round_to_nearest(weights, grid))])
        return made

    list(quantize_layers(llm.transformer, chunks_of(llm.tokenizer, text, context, count), quantize))
    return np.array(both).reshape(-1, len(FIELDS), 2).transpose(2, 0, 1)


def check_below(ours, rtn):
    assert (ours < rtn).all(), "each matrix of each layer"
    assert (ours.sum(axis=1) < rtn.sum(axis=1)).all() and ours.sum() < 0.8 * rtn.sum()


def test_on_tiny_every_layer_loses_less_than_by_rounding_to_nearest():
    text = lzma.decompress(CORPUS.read_bytes()).decode()
    check_below(*layer_errors(LLM("tiny", backend="numpy"), text, 128, 8))


@pytest.mark.slow
@pytest.mark.model
def test_on_smollm2_every_layer_loses_less_than_by_rounding_to_nearest(smollm2_path):
    text = lzma.decompress(CORPUS.read_bytes()).decode()
    check_below(*layer_errors(LLM(smollm2_path, backend="numpy"), text, 256, 8))
