"""Codebooks and small floats: against slow oracles, other libraries' decoders, each other; and files that NumPy runs."""

import itertools
import json
import math

import gguf
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm import LLM
from minillm.cli import main
from minillm.errors import MiniLLMError
from minillm.formats.blocks import BLOCK_TYPES, dequantize, quantize
from minillm.formats.codebook_quants import IQ4_NL
from minillm.formats.float_blocks import SCALED, UNSIGNED, pack_fp8, pack_nvfp4, scale_name
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import write_gguf
from minillm.formats.requantize import requantize
from minillm.model.zoo import resolve
from minillm.quantization.affine import Grid, round_to_nearest
from minillm.quantization.fp4 import LEVELS, quantize_fp4, quantize_mxfp4, quantize_nvfp4
from minillm.quantization.lloyd_max import lloyd_max, nearest_level, quantize_codebook, quantize_lloyd_max
from minillm.quantization.nf4 import nf4_levels

FP4 = {"fp4": (quantize_fp4, 64), "mxfp4": (quantize_mxfp4, 32), "nvfp4": (quantize_nvfp4, 16)}
FOUR_BITS = {  # bits 4, blocks of 64 with one scale of 16 bits
    "int4": lambda w: round_to_nearest(w, Grid(4, 64, symmetric=True)).dense(),
    "fp4": lambda w: quantize_fp4(w).dense(),
    "nf4": lambda w: quantize_codebook(w, nf4_levels()).dense(),
    "iq4_nl": lambda w: quantize_codebook(w, IQ4_NL / np.float32(127), signed=True).dense(),
    "lloyd-max": lambda w: quantize_lloyd_max(w).dense(),
}


def errors(weights):  # -> {format: relative squared error}
    return {name: float(((f(weights) - weights) ** 2).sum() / (weights**2).sum()) for name, f in FOUR_BITS.items()}


# --- Lloyd-Max ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "error", "largest"), [(1, 0.3634, 0.7980), (2, 0.1175, 1.510), (3, 0.03454, 2.152), (4, 0.009497, 2.733)]
)
def test_of_a_normal_distribution_it_is_the_table_of_max(bits, error, largest):
    x = np.linspace(-7, 7, 50_001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    levels = lloyd_max(x, bits, density)
    found = float((density * (x - levels[nearest_level(x, levels)]) ** 2).sum() * (x[1] - x[0]))
    assert found == pytest.approx(error, rel=2e-3) and levels[-1] == pytest.approx(largest, rel=2e-3)
    assert levels == pytest.approx(-levels[::-1], abs=1e-3)


def test_of_a_uniform_distribution_levels_are_even():
    levels = lloyd_max(np.linspace(0, 1, 16_001), 3)
    assert levels == pytest.approx((np.arange(8) + 0.5) / 8, abs=1e-3)


def best_of_all(values, k):
    """The least squared error with k levels, by trying every way to cut sorted numbers into k runs."""
    values = sorted(values)
    best = math.inf
    for cuts in itertools.combinations(range(1, len(values)), k - 1):
        runs = [values[a:b] for a, b in itertools.pairwise((0, *cuts, len(values)))]
        best = min(best, sum(sum((x - sum(run) / len(run)) ** 2 for x in run) for run in runs))
    return best


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=4, max_size=9), st.integers(1, 2))
def test_no_cut_of_the_numbers_is_better(values, bits):
    if len(set(values)) < 1 << bits:
        with pytest.raises(MiniLLMError, match=f"{1 << bits} levels need as many different numbers"):
            lloyd_max(np.array(values), bits)
        return
    levels = lloyd_max(np.array(values, float), bits)
    codes = nearest_level(np.array(values, float), levels)
    for code, level in enumerate(levels):
        mine = [v for v, c in zip(values, codes, strict=True) if c == code]
        assert not mine or level == pytest.approx(sum(mine) / len(mine), abs=1e-6)
        assert all(abs(v - level) <= min(abs(v - other) for other in levels) + 1e-9 for v in mine)
    error = sum((v - levels[c]) ** 2 for v, c in zip(values, codes, strict=True))
    assert error == pytest.approx(best_of_all(values, 1 << bits), abs=1e-6)


def test_counts_are_as_good_as_repeats_and_zero_counts_for_nothing():
    rng = np.random.default_rng(1)
    values, counts = rng.standard_normal(60), rng.integers(0, 4, 60)
    assert lloyd_max(values, 3, counts) == pytest.approx(lloyd_max(np.repeat(values, counts), 3), rel=1e-9)


@pytest.mark.parametrize(
    ("values", "bits", "counts", "said"),
    [
        ([1, 2, np.nan], 1, None, "finite"),
        ([1, 2, 3], 0, None, "1 to 8 bits, found 0"),
        ([1, 2, 3], 9, None, "1 to 8 bits, found 9"),
        ([1, 2, 3], 1, [1, -1, 1], "0 or more"),
        ([1, 2, 3], 1, [1, 1], "3 finite numbers"),
        ([1, 2, 3], 1, [0, 0, 1], "2 levels need as many different numbers, found 1"),
    ],
)
def test_numbers_without_a_codebook_are_refused(values, bits, counts, said):
    with pytest.raises(MiniLLMError, match=said):
        lloyd_max(np.array(values, float), bits, None if counts is None else np.array(counts, float))


def test_no_table_beats_lloyd_max_and_a_signed_scale_is_better_still():
    rng = np.random.default_rng(2)
    for weights in (rng.standard_normal((8, 256)), rng.standard_t(4, (8, 256)), rng.uniform(-1, 1, (8, 256))):
        weights = weights.astype(np.float32)
        for signed in (False, True):
            best = np.square(quantize_lloyd_max(weights, signed=signed).dense() - weights).sum()
            for levels in (nf4_levels(), IQ4_NL / np.float32(127), np.linspace(-1, 1, 16)):
                assert best < np.square(quantize_codebook(weights, levels, signed=signed).dense() - weights).sum()
        assert best < np.square(quantize_lloyd_max(weights).dense() - weights).sum()
    matrix = quantize_lloyd_max(weights, 3)
    assert matrix.bits_per_weight == 3 + 16 / 64 and matrix.codes.max() == 7
    assert (quantize_lloyd_max(np.pad(weights, ((0, 1), (0, 0)))).dense()[-1] == 0).all(), "a row of zeros"


# --- FP4, MXFP4, NVFP4, FP8 -----------------------------------------------------------------------------------------------


def e2m1(sign, exponent, mantissa):  # the definition, in Python's own numbers
    size = (1 + mantissa / 2) * 2 ** (exponent - 1) if exponent else mantissa / 2
    return -size if sign else size


def test_the_table_is_that_of_the_definition_and_of_ml_dtypes():
    assert LEVELS.tolist() == [e2m1(c >> 3, c >> 1 & 3, c & 1) for c in range(16)]
    assert (np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32) == LEVELS).all()
    scales = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert (UNSIGNED[:127] == scales[:127]).all()


@pytest.mark.parametrize("name", FP4)
def test_each_weight_takes_the_nearest_float_under_its_scale(name):
    f, block = FP4[name]
    weights = np.random.default_rng(4).standard_t(3, (3, 128)).astype(np.float32) / 50
    found = f(weights)
    dense, scales = found.dense(), (found.scale * found.scales).astype(float)
    assert found.scales.shape == (3, 128 // block)
    for row in range(3):
        for column in range(128):
            scale, w = scales[row, column // block], float(weights[row, column])
            best = min(abs(scale * e2m1(s, e, m) - w) for s in (0, 1) for e in range(4) for m in (0, 1))
            assert abs(dense[row, column] - w) <= best * (1 + 1e-5) + 1e-9
        for b in range(128 // block):
            largest = np.abs(weights[row, b * block : (b + 1) * block]).max()
            if name == "mxfp4":
                assert scales[row, b] == 2.0 ** (math.floor(math.log2(largest)) - 2)
            else:  # 6 times the scale is the largest, but for the scale's own rounding
                assert scales[row, b] * 6 == pytest.approx(largest, rel=1e-3 if name == "fp4" else 1 / 16)


def test_exact_bits_a_weight():
    weights = np.ones((4, 128), np.float32)
    bits = {name: f(weights).bits_per_weight for name, (f, _) in FP4.items()}
    assert bits == {"fp4": 4.25, "mxfp4": 4.25, "nvfp4": 4.5}
    assert {name: BLOCK_TYPES[name].bits_per_weight for name in ("NF4", "IQ4_NL", "MXFP4", "NVFP4", "FP8_E4M3", "INT3_G64")} == {
        "NF4": 4.25, "IQ4_NL": 4.5, "MXFP4": 4.25, "NVFP4": 4.5, "FP8_E4M3": 8, "INT3_G64": 3.5,
    }  # fmt: skip


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1, 1e4])
def test_two_scales_hold_small_tensors_and_small_blocks(scale):
    weights = np.random.default_rng(5).standard_normal((2, 64)).astype(np.float32) * np.float32(scale)
    weights[0, :16] /= 1000  # its scale is e4m3's still
    found = quantize_nvfp4(weights).dense()
    for block in (np.s_[0, :16], np.s_[0, 16:], np.s_[1]):
        assert np.square(found[block] / scale - weights[block] / scale).sum() < 0.02 * np.square(weights[block] / scale).sum()
    assert (quantize_nvfp4(0 * weights).dense() == 0).all() and (quantize_fp4(0 * weights).dense() == 0).all()


@pytest.mark.parametrize("name", FP4)
@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (np.ones((2, 65)), "do not fill rows of 65: 1 are left over"),
        (np.full((1, 64), np.inf), "NaN or infinite"),
        (np.ones(64), "2 axes"),
    ],
)
def test_what_has_no_blocks_is_refused(name, weights, said):
    with pytest.raises(MiniLLMError, match=said):
        FP4[name][0](weights)


def test_blocks_of_files_are_the_arrays_of_the_quantizers_and_ggmls():
    weights = np.random.default_rng(6).standard_t(4, (5, 192)).astype(np.float32)
    kind = BLOCK_TYPES["MXFP4"]
    assert (dequantize(quantize(weights, kind), kind, weights.shape) == quantize_mxfp4(weights).dense()).all()
    raw, scale = pack_nvfp4(weights)
    stored = dequantize(raw.reshape(-1), BLOCK_TYPES["NVFP4"], weights.shape)
    assert (stored == gguf.quants.dequantize(raw.reshape(5, -1), gguf.GGMLQuantizationType.NVFP4)).all()
    assert stored * scale == pytest.approx(quantize_nvfp4(weights).dense(), rel=1e-6)
    every = np.random.default_rng(7).integers(0, 256, (500, 36), np.uint8)  # whatever bytes a file may have
    every[:64, :4] = np.arange(256, dtype=np.uint8).reshape(64, 4)
    expected = gguf.quants.dequantize(every, gguf.GGMLQuantizationType.NVFP4)
    signed = (every[:, :4] >= 128).repeat(16, axis=1)  # scales have no sign, and no code of 255
    assert (dequantize(every.reshape(-1), BLOCK_TYPES["NVFP4"], (500, 64)) == expected)[~signed].all()
    raw, scale = pack_fp8(weights)
    assert (raw == (weights / scale[:, None]).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)).all()


# --- the order that is claimed: counted ----------------------------------------------------------------------------------


def test_on_drawn_normal_matrices_nf4_is_below_int4_and_fp4_and_the_others_below_it():
    found = [errors(np.random.default_rng(seed).standard_normal((32, 256)).astype(np.float32)) for seed in range(40)]
    counts = [sum(e[a] < e[b] for e in found) for a, b in ORDER]
    assert counts == [40] * len(ORDER)
    mean = {name: np.mean([e[name] for e in found]) for name in FOUR_BITS}
    claimed = {"int4": 0.01057, "fp4": 0.01117, "nf4": 0.00845, "iq4_nl": 0.0075, "lloyd-max": 0.00765}
    assert mean == pytest.approx(claimed, rel=0.03)


ORDER = (("nf4", "int4"), ("nf4", "fp4"), ("iq4_nl", "nf4"), ("lloyd-max", "nf4"))


def matrices_of(path, most=None):
    with open_gguf(path) as file:
        names = [name for name, info in file.tensors.items() if len(info.shape) == 2 and name.startswith("blk.")]
        for name in names[:most]:
            yield file.dequantize(name)


def test_on_the_matrices_of_tiny_the_order_is_the_same():
    found = [errors(w) for w in matrices_of(resolve("tiny"))]
    assert [sum(e[a] < e[b] for e in found) for a, b in ORDER] == [42] * 4 and len(found) == 42


@pytest.mark.model
@pytest.mark.slow
def test_on_the_matrices_of_smollm2_the_order_is_the_same(smollm2_path):
    """Its file has asymmetric groups of 32, so that no grid here is its own."""
    found = [errors(w[:192]) for w in matrices_of(smollm2_path)]
    assert [sum(e[a] < e[b] for e in found) for a, b in ORDER] == [210] * 4 and len(found) == 210


# --- files ---------------------------------------------------------------------------------------------------------------


def written(path, kind, change=lambda tensors: None):
    """tiny's random namesake in FP8 or NVFP4, its embedding as it was."""
    with open_gguf(path) as file:
        tensors = {}
        for name, info in file.tensors.items():
            weights = file.dequantize(name)
            tensors[name] = weights
            if name.startswith("blk.") and len(info.shape) == 2:
                raw, scale = SCALED[kind](weights)
                tensors[name], tensors[scale_name(name)] = (raw.reshape(-1), BLOCK_TYPES[kind], weights.shape), scale
        change(tensors)
        out = path.with_name(f"{kind}.gguf")
        write_gguf(out, file.verbatim(), tensors)
    return out


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """A random model whose rows are blocks of 64."""
    from dataclasses import replace

    from minillm.model.random_model import TINY, byte_metadata, random_tensor, tensor_shapes
    from minillm.model.write import model_metadata

    config = replace(TINY, n_layers=1, d_model=64, n_heads=2, n_kv_heads=1, d_ff=128)
    path = tmp_path_factory.mktemp("scaled") / "model.gguf"
    tensors = {name: random_tensor(name, shape, 0) for name, shape in tensor_shapes(config).items()}
    write_gguf(path, model_metadata(config, byte_metadata(config.vocab_size)), tensors)
    return path


@pytest.mark.parametrize("kind", SCALED)
def test_a_file_with_scales_apart_runs_as_its_floats_do(model_path, kind, capsys):
    path = written(model_path, kind)
    found = LLM(path, "numpy")
    with open_gguf(model_path) as file, open_gguf(path) as packed:
        tensors = {name: file.dequantize(name) for name in file.tensors}
        for name in tensors:
            if name.startswith("blk.") and len(tensors[name].shape) == 2:
                raw, scale = SCALED[kind](tensors[name])
                tensors[name] = dequantize(raw.reshape(-1), BLOCK_TYPES[kind], tensors[name].shape) * scale[:, None]
                assert (packed.dequantize(name) == tensors[name]).all()
        write_gguf(path.with_name("floats.gguf"), file.verbatim(), tensors)
    floats = LLM(path.with_name("floats.gguf"), "numpy")
    prompt = list(range(3, 30))
    assert found.generate(prompt).token_ids == floats.generate(prompt).token_ids
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"]["runs"] is True


@pytest.mark.parametrize("kind", SCALED)
def test_numba_says_that_it_has_no_kernels_and_takes_floats(kind, capsys, monkeypatch):
    from minillm.backends.numba_.linear import load_matrix
    from minillm.model.weights import StoredTensor
    from minillm.terminal import notice

    notice.cache_clear()  # what is told is told once
    monkeypatch.delenv("MINILLM_NOTICE", raising=False)
    weights = np.random.default_rng(8).standard_normal((64, 128)).astype(np.float32)
    raw, scale = SCALED[kind](weights)
    stored = StoredTensor(raw.reshape(-1), BLOCK_TYPES[kind], weights.shape, scale=scale)
    found = load_matrix(stored)
    assert f"numba has no kernels for {kind}" in capsys.readouterr().err
    assert (dequantize(stored.raw, stored.type, stored.shape) * scale[:, None] == found.bands[0].T).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blk.0.attn_q.scale": np.ones(3, np.float32)}, "must be F32 of 1 number or 64, found F32 of shape (3,)"),
        ({"blk.0.attn_q.scale": np.ones(1, np.float16)}, "must be F32 of 1 number or 64, found F16"),
        ({"blk.0.attn_q.scale": np.full(1, np.nan, np.float32)}, "must hold finite numbers"),
        ({"blk.0.attn_norm.scale": np.ones(1, np.float32)}, "belong to nothing that is computed here"),
    ],
)
def test_scales_that_are_not_what_they_must_be_are_refused(model_path, change, said):
    path = written(model_path, "NVFP4", lambda tensors: tensors.update(change))
    with pytest.raises(MiniLLMError) as error:
        LLM(path, "numpy")
    assert said in str(error.value)


def test_without_a_scale_it_is_1_and_weights_without_their_scales_go_nowhere(model_path, tmp_path):
    path = written(model_path, "NVFP4", lambda tensors: tensors.pop("blk.0.attn_q.scale"))
    with open_gguf(path) as file:
        raw = file.raw("blk.0.attn_q.weight")
        q = LLM(path, "numpy").transformer.weights.layers[0].q
        assert (q == dequantize(raw, BLOCK_TYPES["NVFP4"], (64, 64))).all()
        with pytest.raises(MiniLLMError, match="NVFP4 has its scales apart"):
            requantize(file, tmp_path / "out.gguf", "q8_0")
    assert main(["convert", str(path), str(tmp_path / "folder")]) == 2 and not (tmp_path / "out.gguf").exists()
