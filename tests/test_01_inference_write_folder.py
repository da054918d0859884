"""A GGUF file written as a hub's folder in bfloat16 says the same, to our own reader and to the library of the format."""

import json

import ml_dtypes
import numpy as np
import pytest
from golden import tiny_models

from minillm import LLM
from minillm.errors import MiniLLMError, ModelError
from minillm.formats.blocks import BLOCK_TYPES, quantize
from minillm.formats.safetensors import open_safetensors
from minillm.model.load import load_parameters
from minillm.model.presets import PRESETS
from minillm.model.transformer import Segment
from minillm.model.write_folder import config_json, convert
from minillm.model.write_tokenizer import tokenizer_files

safetensors = pytest.importorskip("safetensors", reason="reads the files independently: pip install safetensors")


def written(name, tmp_path):
    tiny_models.write_tiny(name, tmp_path / "m.gguf")
    return tmp_path / "m.gguf", convert(tmp_path / "m.gguf", tmp_path / "m", dtype="bfloat16")


def logits_of(llm, ids):
    return llm.transformer.forward([Segment(ids, 0, llm.transformer.new_cache(), "all")])[0]


@pytest.mark.parametrize("name", sorted(tiny_models.SPECS))
def test_a_folder_gives_the_logits_of_its_file_but_for_the_rounding(name, tmp_path):
    try:
        path, folder = written(name, tmp_path)
    except ModelError as refused:  # RoPE's divisors in a tensor, of an original context of 64: told, and nothing is written
        assert "rope_freqs" in str(refused) and not list(tmp_path.glob("m*/"))
        return
    file, llm = LLM(path), LLM(folder)
    ids = np.arange(40) % llm.config.vocab_size
    expected, found = logits_of(file, ids), logits_of(llm, ids)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.8


def test_each_tensor_is_the_files_rounded_and_rope_pairs_by_halves(tmp_path):
    path, folder = written("llama", tmp_path)
    config, parameters = load_parameters(path)
    with safetensors.safe_open(folder / "model.safetensors", "numpy") as file:
        names = set(file.keys())
    stored = {
        name: t.raw.view(ml_dtypes.bfloat16 if len(t.shape) > 1 else np.float32).reshape(t.shape)
        for name, t in open_safetensors(folder / "model.safetensors").items()
    }
    assert names == set(stored) and len(stored) == len(parameters)
    np.testing.assert_array_equal(stored["model.norm.weight"], parameters["output_norm.weight"])
    up = parameters["blk.0.ffn_up.weight"].astype(ml_dtypes.bfloat16)
    assert stored["model.layers.0.mlp.up_proj.weight"].tobytes() == up.tobytes()
    half, q = config.d_head // 2, stored["model.layers.0.self_attn.q_proj.weight"]
    rows = parameters["blk.0.attn_q.weight"].astype(ml_dtypes.bfloat16)
    for head in range(config.n_heads):  # row i of a half is row 2i, or 2i + 1, of the file
        for i in range(config.d_head):
            source = head * config.d_head + 2 * (i % half) + i // half
            assert q[head * config.d_head + i].tobytes() == rows[source].tobytes(), (head, i)


def test_bfloat16_rounds_as_its_library_does():
    rng = np.random.default_rng(0)
    bits = np.concatenate([rng.integers(0, 2**32, 20000, np.uint32), np.arange(0x3F7F0000, 0x3F820000, 0x800, np.uint32)])
    values = bits.view(np.float32)
    values = np.concatenate([values[np.abs(values) < 3.38e38], [0.0, -0.0, 3.38e38, 1e-45]]).astype(np.float32)
    rounded = quantize(values, BLOCK_TYPES["BF16"]).view(np.uint16)
    np.testing.assert_array_equal(rounded, values.astype(ml_dtypes.bfloat16).view(np.uint16))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_the_tokenizer_comes_back(name, tmp_path):
    path, folder = written(name, tmp_path)
    file, llm = LLM(path).tokenizer, LLM(folder).tokenizer
    for text in ("hello and the thing 1234", "<|im_end|> in text", "é \n\n x", "Once upon a time"):
        assert llm.encode(text) == file.encode(text) and llm.decode(llm.encode(text)) == text
    assert llm.eos_ids == file.eos_ids and llm.bos_id == file.bos_id and llm.add_bos == file.add_bos
    talk = [{"role": "user", "content": "hi"}]
    assert LLM(folder).chat(talk) == LLM(path).chat(talk)


def test_without_a_tokenizer_two_files_are_written(tmp_path):
    tiny_models.write_tiny("llama", tmp_path / "m.gguf")
    folder = convert(tmp_path / "m.gguf", tmp_path / "m", tokenizer=False)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_what_a_folder_cannot_say_is_refused():
    from dataclasses import replace

    with pytest.raises(ModelError, match="both biases and norms"):
        config_json(replace(PRESETS["smollm2-135m"], qkv_bias=True, qk_norm=True))
    user_defined = {"tokenizer.ggml.tokens": ["a", "<tool>"], "tokenizer.ggml.token_type": [1, 4]}
    with pytest.raises(MiniLLMError, match="'<tool>' is a user-defined token of SentencePiece's"):
        tokenizer_files({"tokenizer.ggml.model": "llama", **user_defined, "tokenizer.ggml.scores": [0.0, 0.0]})


def test_rope_scaling_is_said_in_the_keys_of_transformers(tmp_path):
    from minillm.model.hf_config import folder_config

    for name, config in PRESETS.items():
        if config.qkv_bias and config.qk_norm:
            continue
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config_json(config)))
        back = folder_config(folder)
        fields = {f: getattr(config, f) for f in config.__slots__ if f not in ("name", "rope_interleaved")}
        assert {f: getattr(back, f) for f in fields} == fields, name
