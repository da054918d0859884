"""Adapter files: those of peft and of llama.cpp mean what they say there, ours are theirs, and a stranger's are checked."""

import json
import pathlib
import shutil
from dataclasses import replace

import gguf as gguf_package
import numpy as np
import pytest
from golden import tiny_models
from lora_help import random_adapter
from safetensors.numpy import load_file, save_file
from test_16_finetuning_model import SHAPES

from minillm.errors import MiniLLMError, ModelError
from minillm.formats.gguf_write import write_gguf
from minillm.model.adapter_files import load_adapter, save_gguf, save_peft
from minillm.model.config import ModelConfig
from minillm.model.load import load_model, load_parameters
from minillm.model.lora import Adapter
from minillm.model.transformer import Segment
from minillm.training import model
from minillm.training.lora import LoRAProducts, merge

GOLDEN = pathlib.Path(__file__).with_name("golden")
RECORDED = json.loads((GOLDEN / "lora.json").read_text())["models"]
ALPHA = {"llama": 6.0, "qwen2": 5.0}


def same(a, b):
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and (a[n] == b[n]).all() for n in a)


@pytest.fixture(scope="module", params=RECORDED)
def tiny(request, tmp_path_factory):  # -> name, path, config, parameters
    path = tmp_path_factory.mktemp("lora") / "tiny.gguf"
    tiny_models.write_tiny(request.param, path)
    return request.param, path, *load_parameters(path)


def test_the_files_of_peft_and_of_llama_cpp_are_one_adapter(tiny):
    name, _, config, _ = tiny
    theirs, ours = load_adapter(GOLDEN / "lora" / name, config), load_adapter(GOLDEN / "lora" / f"{name}.gguf", config)
    assert theirs.alpha == ours.alpha == ALPHA[name] and same(theirs.weights, ours.weights)
    raw = load_file(GOLDEN / "lora" / name / "adapter_model.safetensors")
    turned = [n for n, w in theirs.weights.items() if not any(w.shape == r.shape and (w == r).all() for r in raw.values())]
    permuted = {"llama": [f"blk.{i}.attn_{n}.weight.lora_b" for i in (0, 1) for n in "qk"], "qwen2": []}
    assert sorted(turned) == sorted(permuted[name])  # the rows of Q and K, and those of Llama alone
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert same(load_adapter(GOLDEN / "lora" / name / file, config).weights, ours.weights)


@pytest.mark.parametrize("form", ["peft", "gguf"])
def test_merged_and_unmerged_give_the_recorded_logits_and_tokens(tiny, form):
    name, _, config, parameters = tiny
    recorded, adapter = RECORDED[name], load_adapter(GOLDEN / "lora" / (name if form == "peft" else f"{name}.gguf"), config)
    expected, merged = np.array(recorded["logits"]), merge(parameters, adapter)
    products = LoRAProducts(adapter.alpha)
    apart = model.logits(config, parameters | adapter.weights, np.array([recorded["ids"]]), products)[-1]
    for found in (apart, model.logits(config, merged, np.array([recorded["ids"]]))[-1]):
        assert abs(found - expected).max() < 1e-4 * abs(expected).max()
    for weights, tokens, how in (
        (parameters | adapter.weights, "greedy", products), (merged, "greedy", model.EVERY_WEIGHT),
        (parameters, "without", model.EVERY_WEIGHT),
    ):  # fmt: skip
        ids = list(recorded["ids"])
        for _ in recorded[tokens]:
            ids.append(int(model.logits(config, weights, np.array([ids]), how)[-1].argmax()))
        assert ids[len(recorded["ids"]) :] == recorded[tokens]


def test_what_is_saved_as_peft_is_what_peft_saved(tiny, tmp_path):
    name, _, config, _ = tiny
    save_peft(tmp_path / "new" / "folder", load_adapter(GOLDEN / "lora" / f"{name}.gguf", config), config, "a/base")
    theirs = load_file(GOLDEN / "lora" / name / "adapter_model.safetensors")
    assert same(load_file(tmp_path / "new" / "folder" / "adapter_model.safetensors"), theirs)
    about, right = (
        json.loads((f / "adapter_config.json").read_text()) for f in (tmp_path / "new/folder", GOLDEN / "lora" / name)
    )
    assert about["base_model_name_or_path"] == "a/base" and sorted(right["target_modules"]) == about["target_modules"]
    for key in ("r", "lora_alpha", "rank_pattern", "peft_type", "task_type", "bias", "fan_in_fan_out"):
        assert about[key] == right[key], key


def test_what_is_saved_as_gguf_is_what_llama_cpp_read(tiny, tmp_path):
    name, _, config, _ = tiny
    save_gguf(tmp_path / "a.gguf", load_adapter(GOLDEN / "lora" / name, config), config)
    ours, theirs = (gguf_package.GGUFReader(path) for path in (tmp_path / "a.gguf", GOLDEN / "lora" / f"{name}.gguf"))
    for key in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"):
        assert ours.fields[key].contents() == theirs.fields[key].contents() and ours.fields[key].types == theirs.fields[key].types
    assert same(*({t.name: t.data for t in file.tensors} for file in (ours, theirs)))
    assert [t.tensor_type.name for t in ours.tensors] == ["F32"] * len(ours.tensors)


def test_a_model_from_a_hubs_folder_keeps_the_hubs_rows():
    """Llama by halves: what peft wrote is in order as it is, and what llama.cpp reads is turned back."""
    config = config_of("llama")
    halves = replace(config, rope_interleaved=False)
    theirs, ours = (load_adapter(GOLDEN / "lora" / f, halves) for f in ("llama", "llama.gguf"))
    raw = load_file(GOLDEN / "lora/llama/adapter_model.safetensors")
    assert same(theirs.weights, ours.weights)
    right = raw["base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"]
    assert (ours.weights["blk.1.attn_k.weight.lora_b"] == right).all()


def config_of(name):  # -> ModelConfig
    s = tiny_models.SPECS[name]
    return ModelConfig(s.layers, s.hidden, s.heads, s.kv_heads, s.d_head, s.ffn, len(tiny_models.tokens()), tiny_models.CONTEXT)


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_saved_and_loaded_an_adapter_is_the_same(shape, halves, tmp_path):
    config = replace(SHAPES[shape], d_head=6)
    if halves:
        config = replace(config, rope_interleaved=False)
    adapter = random_adapter(config, 2, 3.5)
    uneven = {n: w[..., :1] if n.endswith("lora_b") else w[:1] for n, w in adapter.weights.items() if "ffn" in n}
    for made in (adapter, Adapter(adapter.weights | uneven, 0.5)):
        save_gguf(tmp_path / "a.gguf", made, config)
        save_peft(tmp_path / "a", made, config)
        for path in (tmp_path / "a.gguf", tmp_path / "a", str(tmp_path / "a")):
            found = load_adapter(path, config)
            assert found.alpha == made.alpha and same(found.weights, made.weights)
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".part", ".tmp")]


@pytest.mark.parametrize("name", RECORDED)
def test_an_adapter_in_16_bits_is_read(name, tmp_path):
    config = config_of(name)
    if name == "qwen2":
        config = replace(config, qkv_bias=True, rope_interleaved=False)
    shutil.copytree(GOLDEN / "lora" / name, tmp_path / "half")
    raw = load_file(tmp_path / "half/adapter_model.safetensors")
    save_file({n: w.astype(np.float16) for n, w in raw.items()}, tmp_path / "half/adapter_model.safetensors")
    found, whole = load_adapter(tmp_path / "half", config), load_adapter(GOLDEN / "lora" / name, config)
    assert same(found.weights, {n: w.astype(np.float16).astype(np.float32) for n, w in whole.weights.items()})


# --- strangers --------------------------------------------------------------------------------------------------------

CONFIG = config_of("llama")
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


CHANGED_BASES = ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga")  # peft changes the base on loading


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("peft_type", "IA3", "peft_type: expected 'LORA', found 'IA3'"),
        ("peft_type", None, "found nothing"),
        ("use_dora", True, "use_dora: expected False, as in plain LoRA, found True"),
        ("use_rslora", True, "use_rslora: expected False"),
        *[("init_lora_weights", how, f"init_lora_weights: expected .*, found '{how}'") for how in CHANGED_BASES],
        ("init_lora_weights", 1, "init_lora_weights: expected"),
        ("a_key_of_tomorrow", "x", "a_key_of_tomorrow: expected False, as in plain LoRA, found 'x'"),
        ("use_something_new", {"a": 1}, "use_something_new: expected False"),
        ("bias", "all", "bias: expected 'none'"),
        ("fan_in_fan_out", True, "fan_in_fan_out: expected False"),
        ("alpha_pattern", {"q_proj": 3}, "alpha_pattern: expected {}"),
        ("modules_to_save", ["lm_head"], r"modules_to_save: expected \[\]"),
        ("alora_invocation_tokens", [1, 2], "alora_invocation_tokens: expected"),
        ("r", 3, "r is 3 in adapter_config.json, the rank of '.*' is 2"),
        ("r", "2", "r: expected a whole number from 1 .*found '2'"),
        ("lora_alpha", 0, "alpha must be a number above 0, found '0.0'"),
        ("lora_alpha", "6", "lora_alpha: expected a finite number, found '6'"),
        ("lora_alpha", None, "found nothing"),
        ("lora_alpha", True, "found True"),
        ("lora_alpha", [6], "found"),
        ("lora_alpha", float("inf"), "found inf"),
    ],
)
def test_a_configuration_that_is_not_plain_lora_is_refused(key, value, words, tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(GOLDEN / "lora/llama", folder)
    about = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(about | {key: value}))
    with pytest.raises(ModelError, match=words):
        load_adapter(folder, CONFIG)


@pytest.mark.parametrize("how", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_an_adapter_may_have_begun_in_any_way_that_leaves_the_base_alone(how, tmp_path):
    shutil.copytree(GOLDEN / "lora/llama", tmp_path / "a")
    about = json.loads((tmp_path / "a/adapter_config.json").read_text())
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(about | {"init_lora_weights": how, "a_key_of_tomorrow": None}))
    assert same(load_adapter(tmp_path / "a", CONFIG).weights, load_adapter(GOLDEN / "lora/llama", CONFIG).weights)


def nan(raw):
    raw[Q.format("B")][3, 1] = np.nan
    return raw


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda raw: {}, "at least one pair"),
        (lambda raw: {n: w for n, w in raw.items() if n != Q.format("A")}, "its other half 'blk.0.attn_q.weight.lora_a' is miss"),
        (
            lambda raw: raw | {"lm_head.weight": raw[Q.format("A")]},
            "'lm_head.weight' is not lora_A or lora_B of a layer's self",
        ),
        (lambda raw: raw | {Q.format("C"): raw[Q.format("A")]}, "is not lora_A or lora_B"),
        (lambda raw: raw | {Q.format("A").replace("q_proj", "z_proj"): raw[Q.format("A")]}, "is not lora_A or lora_B"),
        (lambda raw: raw | {Q.format("A").replace(".0.", ".2."): raw[Q.format("A")]}, "belongs to nothing in"),
        (lambda raw: raw | {Q.format("A").replace(".0.", ".007."): raw[Q.format("A")]}, "is not lora_A or lora_B"),
        (lambda raw: raw | {Q.format("A"): np.zeros((2, 47), np.float32)}, r"must have shape \(2, 48\), found \(2, 47\)"),
        (lambda raw: raw | {Q.format("B"): np.zeros((49, 2), np.float32)}, r"must have shape \(48, 2\), found \(49, 2\)"),
        (lambda raw: raw | {Q.format("B"): np.zeros(96, np.float32)}, r"must have shape \(48, 2\), found \(96,\)"),
        (lambda raw: raw | {Q.format("A"): np.zeros((), np.float32)}, r"must have shape \(0, 48\), found \(\)"),
        (lambda raw: raw | {Q.format("A"): np.zeros((2, 48))}, "F64"),
        (nan, "1 values that are not finite"),
    ],
)
def test_tensors_of_a_stranger_are_checked(spoil, words, tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(GOLDEN / "lora/llama", folder)
    save_file(spoil(load_file(folder / "adapter_model.safetensors")), folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=words):
        load_adapter(folder, CONFIG)


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_a_folder_is_refused(missing, tmp_path):
    shutil.copytree(GOLDEN / "lora/llama", tmp_path / "a")
    (tmp_path / "a" / missing).unlink()
    with pytest.raises(ModelError, match=f"this one has no {missing}"):
        load_adapter(tmp_path / "a", CONFIG)


def test_cut_anywhere_a_file_is_refused_in_one_line(tmp_path):
    whole = (GOLDEN / "lora/llama.gguf").read_bytes()
    shutil.copytree(GOLDEN / "lora/llama", tmp_path / "a")
    safe = (tmp_path / "a/adapter_model.safetensors").read_bytes()
    for share in (0, 0.001, 0.1, 0.5, 0.99):
        (tmp_path / "cut.gguf").write_bytes(whole[: int(share * len(whole))])
        (tmp_path / "a/adapter_model.safetensors").write_bytes(safe[: int(share * len(safe))])
        for path in (tmp_path / "cut.gguf", tmp_path / "a"):
            with pytest.raises(MiniLLMError) as caught:
                load_adapter(path, CONFIG)
            assert "\n" not in str(caught.value)


GOOD = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 6.0}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"general.type": "model"}, "'general.type' must be 'adapter' for an adapter of model, found 'model'"),
        ({"general.type": None}, "found nothing"),
        ({"general.type": np.zeros(2, np.float32)}, "found array"),
        ({"adapter.type": "cvec"}, "'adapter.type' must be 'lora'"),
        ({"general.architecture": "qwen2"}, "'general.architecture' must be 'llama' for an adapter of model, found 'qwen2'"),
        ({"adapter.lora.alpha": None}, "alpha: expected a finite number, found nothing"),
        ({"adapter.lora.alpha": -1.0}, "found '-1.0'"),
        ({"adapter.lora.alpha": "6"}, "adapter.lora.alpha: expected a finite number, found '6'"),
        ({"adapter.alora.invocation_tokens": np.zeros(2, np.uint32)}, "aLoRA"),
    ],
)
def test_metadata_of_a_stranger_are_checked(metadata, words, tmp_path):
    made = {key: value for key, value in (GOOD | metadata).items() if value is not None}
    write_gguf(tmp_path / "a.gguf", made, random_adapter(CONFIG).weights)
    with pytest.raises(ModelError, match=words):
        load_adapter(tmp_path / "a.gguf", CONFIG)


@pytest.mark.parametrize(
    "name", ["output_norm.weight", "token_embd.weight.lora_a", "blk.0.attn_q.weight", "blk.9.attn_q.weight.lora_b"]
)
def test_unknown_tensors_of_a_gguf_adapter_are_refused(name, tmp_path):
    write_gguf(tmp_path / "a.gguf", GOOD, random_adapter(CONFIG).weights | {name: np.zeros((2, 48), np.float32)})
    with pytest.raises(ModelError, match=f"'{name}' belongs to nothing"):
        load_adapter(tmp_path / "a.gguf", CONFIG)


def test_shapes_are_refused_before_numbers_are_read(tmp_path, monkeypatch):
    from minillm.model import adapter_files

    wrong = random_adapter(CONFIG).weights | {"blk.1.ffn_up.weight.lora_a": np.zeros((2, 4096), np.float32)}
    write_gguf(tmp_path / "a.gguf", GOOD, wrong)
    monkeypatch.setattr(adapter_files, "dequantize", None)
    with pytest.raises(ModelError, match=r"must have shape \(2, 48\), found \(2, 4096\)"):
        load_adapter(tmp_path / "a.gguf", CONFIG)


def test_what_is_nowhere_or_a_model_is_refused(tiny, tmp_path):
    _, path, config, _ = tiny
    for wrong in (tmp_path / "none.gguf", path, tmp_path):
        with pytest.raises(MiniLLMError):
            load_adapter(wrong, config)


def test_parameters_of_a_file_are_the_engines(tiny):
    _, path, config, parameters = tiny
    transformer, _ = load_model(path, backend="numpy")
    tokens = np.arange(3, 20)
    right = transformer.forward([Segment(tokens, 0, transformer.new_cache(), "all")])[0]
    assert abs(model.logits(config, parameters, tokens[None]) - right).max() < 1e-5 * abs(right).max()


def test_parameters_need_every_tensor_in_its_shape(tmp_path):
    tiny_models.write_tiny("llama3_rope", tmp_path / "a.gguf")
    with pytest.raises(ModelError, match="divisors of RoPE"):
        load_parameters(tmp_path / "a.gguf")
