"""Every tensor of a file is used or named; biases of a llama are applied; types that are not decoded are called by name."""

import json
from dataclasses import replace

import gguf as oracle
import numpy as np
import pytest
from fuzz_files import CONFIG, HUB, parameters, write_model_folder
from gguf_files import random_blocks
from gguf_files import write_gguf as write_by_the_library
from golden import tiny_models
from test_01_inference_folder import logits_of

from minillm import LLM
from minillm.cli import main
from minillm.errors import GGUFError, MiniLLMError, ModelError
from minillm.formats.blocks import BLOCK_TYPES_BY_ID, dequantize
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import write_gguf
from minillm.formats.safetensors import encoded, open_safetensors
from minillm.model.hf_folder import hub_name
from minillm.model.load import load_parameters
from minillm.model.random_model import byte_metadata
from minillm.model.tokenizer import Tokenizer
from minillm.model.weights import config_from_gguf
from minillm.model.write import model_metadata

METADATA = model_metadata(CONFIG, byte_metadata(272))


def write(path, more=None, metadata=None):
    write_gguf(path, METADATA | (metadata or {}), parameters() | (more or {}))
    return path


@pytest.mark.parametrize("backend", ["numpy", pytest.param("numba", marks=pytest.mark.slow)])  # compiles
def test_attention_biases_of_a_llama_are_applied(tmp_path, backend):
    """Qwen2 in llama's clothes: the same numbers, rows of Q and K, biases too, in the order of neighbouring pairs."""
    spec = tiny_models.SPECS["qwen2"]
    tiny_models.write_tiny("qwen2", tmp_path / "qwen2.gguf")
    with open_gguf(tmp_path / "qwen2.gguf") as file:
        metadata = {key.replace("qwen2.", "llama."): value for key, value in file.metadata.items()}
        tensors = {name: file.dequantize(name) for name in file.tensors}
    for name, array in tensors.items():
        for part, heads in (("attn_q.", spec.heads), ("attn_k.", spec.kv_heads)):
            if part in name:
                tensors[name] = tiny_models.pairs_from_halves(array.reshape(len(array), -1), heads).reshape(array.shape)
    write_gguf(tmp_path / "llama.gguf", metadata | {"general.architecture": "llama"}, tensors)
    llama, qwen2 = (LLM(tmp_path / f"{name}.gguf", backend=backend) for name in ("llama", "qwen2"))
    assert llama.config.rope_interleaved and llama.config.qkv_bias
    ids = np.arange(30)
    expected = logits_of(qwen2, ids)
    np.testing.assert_allclose(logits_of(llama, ids), expected, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "extra",
    [
        {"blk.0.attn_output.bias": (32,)},
        {"blk.0.ffn_gate.bias": (32,)},
        {"blk.1.attn_q.weight": (32, 32)},
        {"blk.0.attn_q_norm.weight": (16,)},
        {"output_norm.bias": (32,)},
        {"token_types.weight": (2, 32)},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_a_tensor_that_nothing_uses_is_named(tmp_path, extra):
    path = write(tmp_path / "m.gguf", {name: np.ones(shape, np.float32) for name, shape in extra.items()})
    with pytest.raises(ModelError, match=f"m.gguf: 1 of 12 tensors belong to nothing .* '{next(iter(extra))}'"):
        LLM(path)
    with pytest.raises(ModelError, match="1 tensors are not part of what is trained"):
        load_parameters(path)


def test_half_of_the_biases_are_refused(tmp_path):
    path = write(tmp_path / "m.gguf", {"blk.0.attn_q.bias": np.ones(32, np.float32)})
    with pytest.raises(ModelError, match="'blk.0.attn_k.bias' of shape .* is missing"):
        LLM(path)


def test_divisors_of_rope_are_used_and_must_be_above_0(tmp_path):
    slow = write(tmp_path / "slow.gguf", {"rope_freqs.weight": np.full(8, 4, np.float32)})
    linear = write(tmp_path / "l.gguf", metadata={"llama.rope.scaling.factor": 4.0})  # no type: linear, as llama.cpp has it
    a, b, c = (logits_of(LLM(path), np.arange(9)) for path in (slow, linear, write(tmp_path / "m.gguf")))
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(a - c).max() > 1e-3
    bad = write(tmp_path / "bad.gguf", {"rope_freqs.weight": np.zeros(8, np.float32)})
    with pytest.raises(ModelError, match="rope_freqs.weight.* above 0, found 0.0 to 0.0"):
        LLM(bad)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"llama.rope.scaling.type": "longrope"}, "scaling.type: expected 'none' or 'linear' or 'yarn', found 'longrope'"),
        ({"llama.rope.scaling.attn_factor": 1.2}, "rope.scaling.attn_factor"),
        ({"llama.attention.causal": False}, "looks ahead"),
        ({"llama.rope.dimension_count": 8}, "RoPE on 8 of 16 components"),
        ({"llama.block_count": 2**40}, "block_count: expected a whole number from 0 to .*found 1,099,511,627,776"),
        ({"llama.block_count": 2**30}, "'blk.1.attn_norm.weight' .* is missing"),
        ({"llama.attention.head_count_kv": [1]}, r"head_count_kv: expected a whole number .* found array"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused_by_name(tmp_path, metadata, says):
    with pytest.raises(ModelError, match=says):
        LLM(write(tmp_path / "m.gguf", metadata=metadata))


ODD = [float("nan"), float("inf"), 0, -1, 2**63, 1.5, "x", "", True, [], ["a"], [[1]], np.array([1, 2]), np.ones(272) * np.nan]


def test_every_key_of_metadata_with_a_value_of_another_type_loads_or_is_refused(tmp_path):
    more = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0, "tokenizer.ggml.unknown_token_id": 0}
    refused = 0
    with open_gguf(write(tmp_path / "m.gguf", metadata=more)) as file:
        for key in file.metadata:
            for value in ODD:
                changed = replace(file, metadata=file.metadata | {key: value})
                try:
                    config_from_gguf(changed)
                    Tokenizer.from_gguf(changed.metadata).encode("hi")
                except MiniLLMError as error:
                    refused += 1
                    assert "\n" not in str(error) and str(error).isprintable(), (key, value, error)
    assert refused > 250, f"only {refused} were refused: does anything look at the values?"


# --- types that are listed, not decoded -------------------------------------------------------------------------------------


def test_sizes_of_all_types_are_those_of_the_gguf_package():
    for kind, sizes in oracle.GGML_QUANT_SIZES.items():
        if kind in BLOCK_TYPES_BY_ID:
            ours = BLOCK_TYPES_BY_ID[kind]
            assert (ours.name, ours.weights, ours.bytes) == (kind.name, *sizes)
    assert {"IQ4_NL", "IQ4_XS", "TQ1_0", "MXFP4"} <= {t.name for t in BLOCK_TYPES_BY_ID.values()}


@pytest.mark.parametrize("name", ["IQ4_XS", "TQ1_0", "IQ2_XXS", "F64"])
def test_a_type_that_is_not_decoded_is_listed_and_refused_by_its_name(tmp_path, capsys, name):
    raw = random_blocks(name, (2, 256), np.random.default_rng(0))
    path = write_by_the_library(tmp_path / "m.gguf", [("blk.0.attn_q.weight", raw, name)])
    assert main(["inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["types"][name]["bytes"] == raw.nbytes and facts["tensors"][0]["type"] == name
    with open_gguf(path) as file, pytest.raises(GGUFError, match=f"weights of type {name} are not decoded"):
        dequantize(file.raw("blk.0.attn_q.weight"), file.tensors["blk.0.attn_q.weight"].type, (2, 256))


def test_a_model_with_such_a_tensor_is_refused_by_the_names_of_both(tmp_path):
    odd = BLOCK_TYPES_BY_ID[23]
    path = write(tmp_path / "m.gguf", {"blk.0.attn_q.weight": (np.zeros(odd.nbytes((32, 256)), np.uint8), odd, (32, 256))})
    with pytest.raises(ModelError, match="tensor 'blk.0.attn_q.weight' is of type IQ4_XS; supported are F32"):
        LLM(path)


# --- folders ----------------------------------------------------------------------------------------------------------------


def folder_with(tmp_path, more, files=None, config=None):
    write_model_folder(tmp_path)
    hub = {hub_name(name): array for name, array in parameters().items()}
    shards = files or {"model.safetensors": hub | more}
    for name, tensors in shards.items():
        (tmp_path / name).write_bytes(b"".join(encoded(tensors)))
    (tmp_path / "config.json").write_text(json.dumps(HUB | (config or {})))
    return tmp_path


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj.bias", "model.layers.1.mlp.up_proj.weight", "model.extra"])
def test_a_tensor_of_a_folder_that_nothing_uses_is_named(tmp_path, name):
    with pytest.raises(ModelError, match=f"1 of 12 tensors belong to nothing .* '{name}'"):
        LLM(folder_with(tmp_path, {name: np.ones(32, np.float32)}))


def test_what_is_known_to_say_nothing_may_be_there(tmp_path):
    embedding = parameters()["token_embd.weight"]
    more = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32), "lm_head.weight": embedding}
    LLM(folder_with(tmp_path, more))
    with pytest.raises(ModelError, match="'lm_head.weight'"):
        LLM(folder_with(tmp_path, {"lm_head.weight": embedding + 1}))  # tied, says config.json: which is it?


def test_the_index_says_which_files_count(tmp_path):
    hub = {hub_name(name): array for name, array in parameters().items()}
    names = sorted(hub)
    halves = {"a.safetensors": {n: hub[n] for n in names[:5]}, "b.safetensors": {n: hub[n] for n in names[5:]}}
    second_form = {"consolidated.safetensors": {"layers.0.attention.wq.weight": np.ones((2, 2), np.float32)}}
    folder_with(tmp_path, {}, halves | second_form)
    (tmp_path / "model.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: file for file, tensors in halves.items() for n in tensors}}))
    LLM(tmp_path)
    for bad in ("../a.safetensors", "c.safetensors", "a.bin"):
        index.write_text(json.dumps({"weight_map": {"x": bad}}))
        with pytest.raises(ModelError, match="names the file .* which is not in the folder"):
            LLM(tmp_path)
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "a2.safetensors", "z": "b.safetensors"}}))
    (tmp_path / "a2.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    with pytest.raises(ModelError, match="is in another file too"):
        LLM(tmp_path)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"a": (0, 8), "b": (4, 12)}, "'b' must begin at 8, behind 'a', found 4: 4 of the bytes of 'a'"),
        ({"a": (0, 8), "b": (12, 20)}, "'b' must begin at 8, behind 'a', found 12: 4 bytes that belong to none"),
        ({"a": (0, 8)}, "must end with the data at 20 bytes, the last, 'a', ends at 8"),
    ],
)
def test_every_byte_of_a_safetensors_file_belongs_to_one_tensor(tmp_path, entries, says):
    header = json.dumps({n: {"dtype": "F32", "shape": [2], "data_offsets": at} for n, at in entries.items()}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(20))
    with pytest.raises(ModelError, match=says):
        open_safetensors(tmp_path / "x.safetensors")
