"""Rotations: orthogonal and flat for every width, no output of a model changed, outliers spread and rounded with less error."""

import math

import numpy as np
import pytest
from golden.tiny_models import SPECS, write_tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.calibration.collect import collect
from minillm.calibration.folding import with_outliers
from minillm.calibration.rotating import rotate_file, rotate_model, rotated, tensors_of, untied
from minillm.calibration.statistics import ActivationStatistics
from minillm.errors import MiniLLMError, ModelError
from minillm.formats.gguf import open_gguf
from minillm.model.load import load_model
from minillm.model.random_model import tensor_shapes
from minillm.model.transformer import Segment
from minillm.quantization.affine import Grid, round_to_nearest
from minillm.quantization.hqq import hqq
from minillm.quantization.rotations import hadamard, hartley, kurtosis, peak, rotation

WIDTHS = [1, 2, 3, 7, 36, 48, 64, 96, 576, 1536]


@pytest.mark.parametrize("d", WIDTHS)
def test_a_rotation_is_orthogonal_and_flat(d):
    """No entry is above √2 of the mean size, so one outlier of size a becomes d values of at most √(2/d) a."""
    r = rotation(d, 3)
    np.testing.assert_allclose(r @ r.T, np.eye(d), atol=1e-12)
    assert np.abs(r).max() <= math.sqrt((1 if d & (d - 1) == 0 else 2) / d) * (1 + 1e-12)
    if d > 3:
        assert (rotation(d, 3) == r).all() and (rotation(d, 4) != r).any()


def test_hadamards_matrix_is_sylvesters_and_hartleys_is_cos_and_sin():
    for i in range(8):
        for j in range(8):
            assert hadamard(8)[i, j] == pytest.approx((-1) ** (i & j).bit_count() / math.sqrt(8))
    for i in range(9):
        for j in range(9):
            angle = 2 * math.pi * i * j / 9
            assert hartley(9)[i, j] == pytest.approx((math.cos(angle) + math.sin(angle)) / 3, abs=1e-12)


@pytest.mark.parametrize("d", [64, 96, 576])
def test_what_looks_like_a_row_of_the_matrix_is_not_gathered_into_one(d):
    """A constant row is the first row of H ⊗ C: without signs all of it would be one component, and its peak √d."""
    assert peak(np.ones(d) @ np.kron(hadamard(d & -d), hartley(d // (d & -d)))) == pytest.approx(math.sqrt(d))
    assert all(peak(np.ones(d) @ rotation(d, seed)) < 5 for seed in range(20))  # false alarm: 20 d normal draws beyond 5, 0.7%


@pytest.mark.parametrize("d", [0, -4])
def test_no_components_are_no_rotation(d):
    with pytest.raises(MiniLLMError, match=f"at least 1 component, found {d}"):
        rotation(d, 0)
    with pytest.raises(MiniLLMError, match="power of two"):
        hadamard(d or 12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=30))
def test_kurtosis_and_peak_are_those_of_plain_loops(values):
    mean = sum(values) / len(values)
    second, fourth = (sum((v - mean) ** p for v in values) / len(values) for p in (2, 4))
    if second > 1e-3:
        assert kurtosis(np.float32(values)) == pytest.approx(fourth / second**2, rel=1e-6)
        assert peak(np.float32(values)) == pytest.approx(max(map(abs, values)) / math.sqrt(second + mean**2), rel=1e-6)


def test_kurtosis_and_peak_of_known_shapes():
    assert kurtosis([-1, 1, 1, -1]) == 1 and peak([-1, 1, 1, -1]) == 1 and peak([0, 0, 0, 9]) == 2
    assert kurtosis(np.random.default_rng(0).standard_normal(100_000)) == pytest.approx(3, abs=0.1)  # standard error 0.015
    assert math.isnan(kurtosis([2, 2])) and math.isnan(peak([0, 0]))


# --- outliers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("d", [256, 576])
def test_injected_outliers_are_spread_and_cost_less(bits, d):
    """One weight of a hundred is 20 times as large, anywhere. The error of the product is the same on either side of R."""
    rng = np.random.default_rng(d)
    weights = rng.standard_normal((32, d))
    weights[rng.random(weights.shape) < 0.01] *= 20
    r = rotation(d, 1)
    assert kurtosis(weights) > 30 and kurtosis(weights @ r) < 5
    assert peak(weights) > 12 and peak(weights @ r) < 6
    lost = [np.square(w - round_to_nearest(w, Grid(bits, 64)).dense()).sum() for w in (weights, weights @ r)]
    assert lost[1] < 0.5 * lost[0]
    assert np.square(weights @ r - hqq(weights @ r, Grid(bits, 64)).dense()).sum() < lost[1]


def test_without_outliers_a_rotation_changes_little():
    weights = np.random.default_rng(0).standard_normal((64, 576))
    lost = [np.square(w - round_to_nearest(w, Grid(3, 64)).dense()).sum() for w in (weights, weights @ rotation(576, 1))]
    assert lost[1] == pytest.approx(lost[0], rel=0.05)


# --- models -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")

    def find(name):
        if not (path := folder / f"{name}.gguf").exists():
            write_tiny(name, path)
        return path

    return find


def logits(model, tokens=24):
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, tokens)
    return model.forward([Segment(ids, 0, model.new_cache(), "all")])[0]


def check_unchanged(found, expected):
    """1e-5 of the largest logit."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", [*SPECS, "tiny"])
def test_a_rotated_model_says_the_same(path_of, name):
    model = load_model("tiny" if name == "tiny" else path_of(name), "numpy")[0]
    turned = rotate_model(model, 2)
    check_unchanged(logits(turned), logits(model))
    assert not turned.config.tied and turned.weights.head is not turned.weights.embedding
    gains = [turned.weights.norm, *(getattr(w, name) for w in turned.weights.layers for name in ("attn_norm", "ffn_norm"))]
    assert all((gain == 1).all() for gain in gains)
    assert all((w.q != v.q).mean() > 0.9 for w, v in zip(turned.weights.layers, model.weights.layers, strict=True))


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama3_rope"])
def test_a_rotated_file_is_a_model_that_says_the_same(path_of, name, tmp_path):
    with open_gguf(path_of(name)) as source:
        rotate_file(source, out := tmp_path / "out.gguf", 2)
    expected, found = load_model(path_of(name), "numpy")[0], load_model(out, "numpy")[0]
    check_unchanged(logits(found), logits(expected))
    with open_gguf(out) as file, open_gguf(path_of(name)) as source:
        assert {t.type.name for t in file.tensors.values()} == {"F32"}
        extra = {"output.weight"} - source.tensors.keys()
        assert file.tensors.keys() == source.tensors.keys() | extra
        assert file.metadata.keys() >= source.metadata.keys() - {"general.file_type"}


def test_a_file_that_cannot_be_rotated_leaves_nothing(path_of, tmp_path):
    out = tmp_path / "out.gguf"
    with open_gguf(path_of("llama")) as source:
        with pytest.raises(MiniLLMError, match="is the file that is read"):
            rotate_file(source, path_of("llama"))
        del source.tensors["blk.1.ffn_up.weight"]
        with pytest.raises(ModelError, match=r"'blk\.1\.ffn_up\.weight' must have shape \(40, 48\), found None"):
            rotate_file(source, out)
    assert not out.exists() and list(tmp_path.iterdir()) == []


def test_tensors_come_one_by_one(path_of):
    """None is asked for before its turn, and with a matrix its gain alone."""
    model, asked = load_model(path_of("llama"), "numpy")[0], []
    get = tensors_of(model)

    def counted(name):
        asked.append(name)
        return get(name)

    names = []
    for name, tensor in rotated(model.config, counted):
        assert len(asked) <= 2 and tensor.shape == tensor_shapes(untied(model.config))[name] and tensor.dtype == np.float32
        names.append(name)
        asked.clear()
    assert names == list(tensor_shapes(untied(model.config)))


def test_a_model_with_injected_outliers_is_rounded_better_when_it_is_rotated():
    """Summed error of the layers' matrices that read the stream, and what it does to the logits of tiny: 4 bits, groups of 64."""
    model = load_model("tiny", "numpy")[0]
    loud, expected, found = with_outliers(model), logits(model), []
    check_unchanged(logits(loud), expected)
    for m in (loud, rotate_model(loud)):
        lost = 0.0
        for w in m.weights.layers:
            for name in ("q", "k", "v", "gate", "up"):
                rounded = round_to_nearest(getattr(w, name), Grid(4, 64)).dense()
                lost += np.square(getattr(w, name) - rounded).sum() / np.square(rounded).sum()
                setattr(w, name, rounded)
        found.append((lost, np.square(logits(m) - expected).mean()))
    (lost, wrong), (lost_rotated, wrong_rotated) = found
    assert lost_rotated < 0.6 * lost and wrong_rotated < 0.1 * wrong


def test_loud_channels_are_gone_from_what_matrices_are_fed(path_of):
    model = load_model(path_of("mixed"), "numpy")[0]
    model.weights.embedding[:, [3, 17]] *= 30
    for w in model.weights.layers:
        w.o[[3, 17]] *= 30
        w.down[[3, 17]] *= 30
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, (2, 32))
    found = []
    for m in (model, rotate_model(model)):
        collect(m, ids, seen := ActivationStatistics())
        found.append([seen[f"blk.{i}.{stem}.weight"] for i in range(2) for stem in ("attn_q", "ffn_up")])
    for before, after in zip(*found, strict=True):
        assert before.kurtosis > 10 and after.kurtosis < 4 and after.peak < 0.75 * before.peak


def test_weights_that_are_not_finite_are_named(path_of):
    model = load_model(path_of("llama"), "numpy")[0]
    model.weights.layers[1].up[3, 4] = np.nan
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight: .* found 1 of 1,920 NaN"):
        rotate_model(model)
