"""RoPE scaling: frequencies and YaRN's magnitude against plain loops, both backends against transformers, both kinds of files."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden import converted_models, tiny_models, written_models
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.errors import ModelError
from minillm.formats.expect import Fields
from minillm.formats.gguf import open_gguf
from minillm.layers import rope, rope_angles
from minillm.model.config import RopeScaling
from minillm.model.hf_config import folder_config
from minillm.model.load import load_model
from minillm.model.random_model import TINY, byte_metadata, random_model
from minillm.model.rope_files import rope_freqs, scaling_from_config, scaling_from_gguf, scaling_to_gguf, shortest
from minillm.model.rope_scaling import rope_magnitude, scaled_frequencies
from minillm.model.transformer import Segment
from minillm.model.weights import config_from_gguf
from minillm.model.write import write_model
from minillm.model.write_folder import config_json

RECORDED = json.loads((Path(__file__).parent / "golden" / "tiny.json").read_text())["models"]
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
USUAL = 0.1 * math.log(4) + 1


def gguf_keys(**more):
    values = YARN | {key.replace("__", "."): value for key, value in more.items()}
    return scaling_from_gguf(Fields(values, "metadata llama.", ModelError), 256)


def hub(**values):
    return scaling_from_config(Fields({"rope_type": "yarn", "factor": 4.0} | values, "config.json: ", ModelError), 256)


# --- the arithmetic -------------------------------------------------------------------------------------------------------


def yarn_frequency(i, d, base, s):  # of pair i: the code of the paper's authors, one number at a time
    def pair(turns):
        return d * math.log(s.original_context / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(pair(s.beta_fast)), 0), min(math.ceil(pair(s.beta_slow)), d - 1)
    if low == high:
        high += 0.001
    ramp = min(max((i - low) / (high - low), 0), 1)
    plain = base ** (-2 * i / d)
    return plain * (1 - ramp) + plain / s.factor * ramp


SHAPES = [  # d_head, base, scaling
    (128, 1e6, RopeScaling("yarn", 4.0, original_context=32768)),  # Qwen2.5's
    (64, 1e4, RopeScaling("yarn", 16.0, original_context=4096)),  # the paper's
    (16, 500.0, RopeScaling("yarn", 2.5, original_context=48, beta_fast=2.0, beta_slow=0.1)),
    (2, 1e4, RopeScaling("yarn", 8.0, original_context=64)),  # one pair
    (6, 1e4, RopeScaling("yarn", 8.0, original_context=5)),  # no pair turns once: both ends at 0
    (12, 1.5, RopeScaling("yarn", 3.0, original_context=40)),  # frequencies that hardly fall
    (10, 1e4, RopeScaling("yarn", 0.5, original_context=64)),
]


@pytest.mark.parametrize(("d", "base", "scaling"), SHAPES)
def test_yarn_slows_each_pair_by_the_ramp(d, base, scaling):
    config = replace(TINY, d_head=d, rope_base=base, rope_scaling=scaling)
    expected = [yarn_frequency(i, d, base, scaling) for i in range(d // 2)]
    np.testing.assert_allclose(scaled_frequencies(config), expected, rtol=2e-6)


def test_some_pairs_keep_their_frequency_and_some_are_divided_wholly():
    config = replace(TINY, d_head=128, rope_base=1e6, rope_scaling=SHAPES[0][2])
    ratio = scaled_frequencies(replace(config, rope_scaling=None)) / scaled_frequencies(config)
    assert ratio[0] == 1 and math.isclose(ratio[-1], 4, rel_tol=1e-6) and (np.diff(ratio) >= -1e-6).all()
    assert 0 < np.count_nonzero((ratio > 1.001) & (ratio < 3.999)) < 40


def test_scores_grow_by_the_square_of_the_magnitude_and_nothing_else_has_one():
    assert rope_magnitude(RopeScaling("yarn", 4.0)) == USUAL and rope_magnitude(RopeScaling("yarn", 0.5)) == 1
    assert rope_magnitude(RopeScaling("yarn", 4.0, attention_factor=1.4)) == 1.4
    assert rope_magnitude(RopeScaling("linear", 4.0)) == rope_magnitude(RopeScaling("llama3", 8.0)) == rope_magnitude(None) == 1
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 5, 1, 8)).astype(np.float32)
    frequencies = scaled_frequencies(replace(TINY, d_head=8))
    plain, sharp = (rope_angles(np.arange(5), frequencies, m) for m in (1.0, 1.3))
    scores = [rope(q, *a, True)[:, 0] @ rope(k, *a, True)[:, 0].T for a in (plain, sharp)]
    np.testing.assert_allclose(scores[1], 1.3**2 * scores[0], rtol=1e-5)
    for a, b in zip(plain, rope_angles(np.arange(5), frequencies), strict=True):
        assert (a == b).all() and a.dtype == sharp[0].dtype == np.float32


def test_divisors_of_a_file_come_on_top_of_its_scaling():  # as in llama.cpp
    config = replace(TINY, rope_scaling=RopeScaling("linear", 2.0))
    divisors = np.linspace(1, 3, config.d_head // 2).astype(np.float32)
    plain = scaled_frequencies(replace(config, rope_scaling=None))
    np.testing.assert_allclose(scaled_frequencies(config, divisors), plain / divisors / 2, rtol=1e-6)


# --- running --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", ["yarn_rope", "yarn_other", "linear_rope", "llama3_rope"])
def test_logits_of_prompt_and_decode_equal_transformers(name, backend, tmp_path):
    tiny_models.write_tiny(name, tmp_path / "m.gguf")
    transformer = load_model(tmp_path / "m.gguf", backend=backend)[0]
    for sequence in RECORDED[name]:
        ids, expected = np.array(sequence["ids"]), np.array(sequence["logits"])
        whole = transformer.forward([Segment(ids, 0, transformer.new_cache(), "all")])[0][sequence["positions"]]
        cache = transformer.new_cache()
        steps = [transformer.forward([Segment(ids[i : i + 1], i, cache, "all")])[0][0] for i in range(len(ids))]
        for found in (whole, np.array(steps)[sequence["positions"]]):
            assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_model_without_the_magnitude_or_the_ramp_says_something_else():
    """So the recorded logits can tell."""
    config = replace(TINY, n_layers=1, rope_scaling=RopeScaling("yarn", 8.0, original_context=16))
    ids = np.arange(90) % 200

    def logits(**change):
        transformer = random_model(replace(config, rope_scaling=replace(config.rope_scaling, **change)))[0]
        return transformer.forward([Segment(ids, 0, transformer.new_cache(), "last")])[0]

    for change in ({"attention_factor": 1.0}, {"beta_slow": 0.3}, {"kind": "linear"}, {"original_context": 40}):
        assert np.abs(logits(**change) - logits()).max() > 1e-3, change


# --- GGUF's metadata ------------------------------------------------------------------------------------------------------


def test_keys_of_a_gguf_file_mean_what_they_mean_to_llama_cpp():
    assert gguf_keys() == RopeScaling("yarn", 4.0, original_context=256)
    assert gguf_keys(rope__scaling__original_context_length=64).original_context == 64
    assert gguf_keys(rope__scaling__factor=None, rope__scale_linear=2.0).factor == 2
    assert rope_magnitude(gguf_keys(rope__scaling__attn_factor=1.25)) == pytest.approx(1.25 * USUAL)
    weighted = rope_magnitude(gguf_keys(rope__scaling__yarn_log_multiplier=0.5))
    assert weighted == pytest.approx(USUAL / (0.05 * math.log(4) + 1))
    other = gguf_keys(rope__scaling__yarn_beta_fast=8.0, rope__scaling__yarn_beta_slow=2.0)
    assert (other.beta_fast, other.beta_slow, other.attention_factor) == (8, 2, None)
    assert gguf_keys(rope__scaling__yarn_attn_factor=float(np.float32(USUAL)), rope__scaling__yarn_ext_factor=1.0) == gguf_keys()
    assert gguf_keys(rope__scaling__type="none") is None and gguf_keys(rope__scaling__type="linear") == RopeScaling("linear", 4.0)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"rope__scaling__yarn_attn_factor": 1.0}, r"yarn_attn_factor: expected 1\.13863, which the other keys give, found 1"),
        ({"rope__scaling__yarn_ext_factor": 0.5}, "yarn_ext_factor: expected 1.0 or -1.0, found 0.5"),
        ({"rope__scaling__yarn_beta_fast": 1.0}, "yarn_beta_fast: expected more than beta_slow, 1, found 1"),
        ({"rope__scaling__yarn_beta_slow": float("nan")}, "yarn_beta_slow: expected a number from 0.001"),
        ({"rope__scaling__original_context_length": 0}, "original_context_length: expected a whole number from 1"),
        ({"rope__scaling__attn_factor": 0.0}, "attn_factor: expected a number from 1e-30"),
        ({"rope__scaling__type": "linear", "rope__scaling__attn_factor": 1.2}, "attn_factor: expected 1, with .* 'linear'"),
        ({"rope__scaling__type": "longrope"}, "type: expected 'none' or 'linear' or 'yarn', found 'longrope'"),
    ],
)  # fmt: skip
def test_what_would_scale_otherwise_is_refused_by_name(keys, says):
    with pytest.raises(ModelError, match=says):
        gguf_keys(**keys)


def test_yarn_needs_a_base_above_1():
    with pytest.raises(ModelError, match="YaRN needs frequencies that fall, with a RoPE base above 1, found 1.0"):
        replace(TINY, rope_base=1.0, rope_scaling=RopeScaling("yarn", 2.0))


single = st.floats(width=32, min_value=1.0, max_value=2.0**20)
yarns = st.builds(
    RopeScaling, st.just("yarn"), single, original_context=st.integers(1, 2**31 - 1), beta_fast=st.sampled_from([32.0, 7.5]),
    beta_slow=st.sampled_from([1.0, 0.25]), attention_factor=st.none() | st.sampled_from([1.0, 1.4, 0.1, 1e-6, 3.0000001]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(scaling=yarns)
def test_a_scaling_comes_back_from_both_kinds_of_files(tmp_path_factory, scaling):
    config = replace(written_models.LLAMA, n_layers=1, vocab_size=259, rope_scaling=scaling)
    folder = tmp_path_factory.getbasetemp()
    write_model(folder / "yarn.gguf", config, written_models.weights(config), byte_metadata(259))
    with open_gguf(folder / "yarn.gguf") as file:
        found = config_from_gguf(file).rope_scaling
        keys = {key: value for key, value in file.metadata.items() if "scaling" in key}
    total, back = scaling.attention_factor, found.attention_factor
    assert replace(found, attention_factor=total) == scaling
    if total is not None and rope_magnitude(replace(scaling, attention_factor=None)) != total:
        assert back == pytest.approx(total, rel=2e-7)
    assert ("llama.rope.scaling.yarn_beta_fast" in keys) == ((scaling.beta_fast, scaling.beta_slow) != (32, 1))
    (folder / "config.json").write_text(json.dumps(config_json(config)))
    assert replace(folder_config(folder).rope_scaling, factor=scaling.factor) == scaling


@given(attn=st.floats(width=32, min_value=2.0**-10, max_value=16.0), factor=st.floats(width=32, min_value=0.5, max_value=2.0**20))
def test_attn_factor_comes_back_to_the_bit_and_as_a_short_decimal(attn, factor):
    keys = {"rope.scaling.type": "yarn", "rope.scaling.factor": factor, "rope.scaling.attn_factor": attn}
    scaling = scaling_from_gguf(Fields(keys, "", ModelError), 64)
    back = scaling_to_gguf(scaling)
    assert np.float32(back.get("rope.scaling.attn_factor", 1.0)) == np.float32(attn)
    if attn != 1:
        assert rope_magnitude(scaling) == pytest.approx(attn * rope_magnitude(RopeScaling("yarn", factor)), rel=1e-7)
        assert len(repr(scaling.attention_factor)) <= 16


def test_llama3s_divisors_are_those_of_its_rule():
    spec = tiny_models.SPECS["llama3_rope"]
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 64)
    config = replace(TINY, d_head=spec.d_head, rope_base=spec.rope_base, rope_scaling=scaling)
    np.testing.assert_allclose(rope_freqs(config)["rope_freqs.weight"], tiny_models.llama3_divisors(spec), rtol=1e-6)
    assert rope_freqs(TINY) == {} and rope_freqs(replace(TINY, rope_scaling=RopeScaling("yarn", 2.0))) == {}


@pytest.mark.parametrize("value", [1e-5, 1e-6, 10000.0, 2.3, 1 / 3, 0.1, 3.4e38, 1.0])
def test_the_shortest_decimal_is_stored_as_the_same_float32(value):
    stored = float(np.float32(value))
    short = shortest(stored)
    assert np.float32(short) == np.float32(stored) and len(repr(short)) <= min(len(repr(stored)), 12)


# --- config.json ----------------------------------------------------------------------------------------------------------


def test_config_json_says_yarn_in_the_keys_of_transformers():
    assert hub() == hub(type="yarn") == hub(rope_type=None, type="yarn") == RopeScaling("yarn", 4.0, original_context=256)
    assert hub(original_max_position_embeddings=64, beta_fast=8, beta_slow=2, truncate=True) == RopeScaling(
        "yarn", 4.0, original_context=64, beta_fast=8.0, beta_slow=2.0
    )
    assert hub(attention_factor=1.5, mscale=1, mscale_all_dim=1).attention_factor == 1.5
    ratio = (0.0707 * math.log(4) + 1) / (0.05 * math.log(4) + 1)
    assert hub(mscale=0.707, mscale_all_dim=0.5).attention_factor == pytest.approx(ratio)
    assert hub(mscale=0.707).attention_factor is None and hub(mscale=0, mscale_all_dim=1).attention_factor is None
    assert hub(rope_type="default", factor=None) is None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"truncate": False}, "truncate: expected True, found False"),
        ({"attn_factor": 1.2}, "attn_factor: expected no such key, where RoPE's scaling is 'yarn', found 1.2"),
        ({"factor": None}, "factor: expected a number"),
        ({"beta_fast": 0.5}, "beta_fast: expected more than beta_slow, 1, found 0.5"),
        ({"mscale": -1.0}, "mscale: expected a number from 0"),
        ({"original_max_position_embeddings": 2.5}, "original_max_position_embeddings: expected a whole number"),
        ({"rope_type": "dynamic"}, "rope_type: expected RoPE scaling that is supported, linear, llama3 or yarn, found 'dynamic'"),
    ],
)
def test_what_transformers_would_scale_otherwise_is_refused_by_name(values, says):
    with pytest.raises(ModelError, match=says):
        hub(**values)


def test_scaling_is_read_from_both_forms_of_transformers(tmp_path):
    config = converted_models.MODELS["llama_yarn"][0]
    values = config_json(config)
    (tmp_path / "config.json").write_text(json.dumps(values))
    four = folder_config(tmp_path)
    values["rope_parameters"] = values.pop("rope_scaling") | {"rope_theta": values.pop("rope_theta")}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert folder_config(tmp_path) == four and four.rope_scaling == config.rope_scaling and four.rope_base == 500
