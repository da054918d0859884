"""A model written to a file: any configuration comes back, the keys are the gguf package's, llama.cpp reads the same model."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from golden import written_models
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm import LLM, SamplingParams
from minillm.errors import GGUFError, ModelError
from minillm.formats.gguf import open_gguf
from minillm.model.config import ModelConfig, RopeScaling
from minillm.model.random_model import byte_metadata, byte_tokenizer, tensor_shapes
from minillm.model.tokenizer import Tokenizer
from minillm.model.transformer import Segment
from minillm.model.weights import config_from_gguf
from minillm.model.write import write_model
from minillm.training.model import logits

GOLDEN = json.loads((Path(__file__).parent / "golden" / "written.json").read_text(encoding="utf-8"))["models"]
SMALL = replace(written_models.LLAMA, n_layers=1, vocab_size=259)
KINDS = [(True, False, False), (True, True, False), (False, True, False), (False, False, True)]
single = st.floats(width=32, min_value=2.0**-60, max_value=2.0**60)


@st.composite
def configs(draw):
    size, kv_heads = st.integers(1, 9), draw(st.integers(1, 3))
    interleaved, bias, norm = draw(st.sampled_from(KINDS))
    return ModelConfig(
        n_layers=draw(st.integers(1, 3)), d_model=draw(size), n_heads=kv_heads * draw(st.integers(1, 3)), n_kv_heads=kv_heads,
        d_head=2 * draw(size), d_ff=draw(size), vocab_size=259 + draw(size), context_length=draw(st.integers(1, 2**31 - 1)),
        norm_eps=draw(single), rope_base=draw(single), rope_interleaved=interleaved, qkv_bias=bias, qk_norm=norm,
        rope_scaling=draw(st.none() | st.builds(RopeScaling, st.just("linear"), single)), tied=draw(st.booleans()),
        name=draw(st.text(st.characters(exclude_categories=["Cs"]))),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(configs(), st.sampled_from(["F16", "F32"]))
def test_any_configuration_its_weights_and_its_tokenizer_come_back(tmp_path_factory, config, dtype):
    path, weights = tmp_path_factory.getbasetemp() / "any.gguf", written_models.weights(config)
    write_model(path, config, weights, byte_metadata(config.vocab_size), dtype=dtype)
    with open_gguf(path) as file:
        assert config_from_gguf(file) == config
        assert set(file.tensors) == set(weights)
        for name, array in weights.items():
            stored = file.tensors[name].type.name
            assert stored == (dtype if array.ndim == 2 else "F32"), name
            assert (file.dequantize(name) == array.astype(np.float16 if stored == "F16" else np.float32)).all(), name
        tokenizer, own = Tokenizer.from_gguf(file.metadata), byte_tokenizer(config.vocab_size)
    text = "é<|im_end|> the end"
    assert tokenizer.encode(text, special=True) == own.encode(text, special=True)
    assert (tokenizer.eos_ids, tokenizer.bos_id, tokenizer.add_bos) == (own.eos_ids, own.bos_id, own.add_bos)


@pytest.mark.parametrize("name", written_models.MODELS)
def test_keys_and_tensors_are_those_of_the_gguf_package(tmp_path, name):
    config, _, dtype = written_models.MODELS[name]
    written_models.write(name, tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    found = {key: field.contents() for key, field in reader.fields.items()}
    kind = found[gguf.Keys.General.ARCHITECTURE]
    arch = next(a for a, text in gguf.MODEL_ARCH_NAMES.items() if text == kind)
    assert kind == name.partition("_")[0]
    llm, attention, rope = gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope
    shape = {
        llm.CONTEXT_LENGTH: config.context_length, llm.EMBEDDING_LENGTH: config.d_model, llm.BLOCK_COUNT: config.n_layers,
        llm.FEED_FORWARD_LENGTH: config.d_ff, llm.VOCAB_SIZE: 300, attention.HEAD_COUNT: config.n_heads,
        attention.HEAD_COUNT_KV: config.n_kv_heads, attention.KEY_LENGTH: config.d_head, attention.VALUE_LENGTH: config.d_head,
        attention.LAYERNORM_RMS_EPS: np.float32(config.norm_eps), rope.DIMENSION_COUNT: config.d_head,
        rope.FREQ_BASE: np.float32(config.rope_base),
    }  # fmt: skip
    shape = {key.format(arch=kind): value for key, value in shape.items()}
    assert {key: value for key, value in found.items() if key.startswith(f"{kind}.")} == shape
    assert found[gguf.Keys.General.FILE_TYPE] == {"F16": gguf.LlamaFileType.MOSTLY_F16, "F32": gguf.LlamaFileType.ALL_F32}[dtype]
    assert (found[gguf.Keys.General.NAME], found[gguf.Keys.General.LICENSE]) == (config.name, "apache-2.0")
    known = {gguf.TENSOR_NAMES[t].format(bid=i) for t in gguf.MODEL_TENSORS[arch] for i in range(config.n_layers)}
    stems = {t.name.rpartition(".")[0] for t in reader.tensors}
    assert stems <= known and ("output" in stems) == (not config.tied)
    assert all(field.types[0] != gguf.GGUFValueType.FLOAT64 for field in reader.fields.values()), "llama.cpp wants F32"


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", written_models.MODELS)
def test_llama_cpp_says_the_same_of_the_same_file(tmp_path, name, backend):
    written_models.write(name, tmp_path / "m.gguf")
    golden = GOLDEN[name]
    digest = hashlib.sha256((tmp_path / "m.gguf").read_bytes()).hexdigest()
    assert digest == golden["sha256"], "the writer writes other bytes than llama.cpp has read: run golden/record_written.py"
    llm = LLM(tmp_path / "m.gguf", backend=backend)
    for prompt in golden["prompts"]:
        assert llm.tokenizer.encode(prompt["text"]) == prompt["ids"]
        params = SamplingParams(max_tokens=len(prompt["greedy"]), temperature=0, ignore_eos=True)
        assert llm.generate([prompt["text"]], params)[0].token_ids == prompt["greedy"], f"least lead {prompt['least_lead']}"


@pytest.mark.parametrize("name", written_models.MODELS)
def test_what_was_trained_is_what_runs(tmp_path, name):
    """The training pass over arrays, and the engine over the file: one model."""
    config, weights = written_models.MODELS[name][0], written_models.weights(written_models.MODELS[name][0])
    write_model(tmp_path / "m.gguf", config, weights, byte_metadata(300), dtype="F32")
    ids = [5, 299, 0, 7, 7, 258, 31]
    transformer = LLM(tmp_path / "m.gguf", backend="numpy").transformer
    (ours,) = transformer.forward([Segment(ids, 0, transformer.new_cache(), "all")])
    np.testing.assert_allclose(ours, logits(config, weights, np.array([ids])), rtol=1e-4, atol=1e-4)


def test_more_metadata_may_be_given_but_nothing_be_overruled(tmp_path):
    extra = {"general.author": "x", "llama.block_count": 7, "tokenizer.ggml.eos_token_id": 0, "general.file_type": 9}
    write_model(tmp_path / "m.gguf", SMALL, written_models.weights(SMALL), byte_metadata(259), extra)
    with open_gguf(tmp_path / "m.gguf") as file:
        found = [file.metadata[key] for key in extra]
    assert found == ["x", 1, 258, 1]


def changed(**arrays):
    weights = written_models.weights(SMALL) | arrays
    return {name: array for name, array in weights.items() if array is not None}


def with_value(value):
    table = written_models.weights(SMALL)["token_embd.weight"]
    table[3, 5] = value
    return {"parameters": changed(**{"token_embd.weight": table})}


WRONG = {
    "RoPE of Qwen without its biases": ({"config": replace(SMALL, rope_interleaved=False)}, "rope_interleaved = False, qkv_bias"),
    "biases and norms": ({"config": replace(SMALL, rope_interleaved=False, qkv_bias=True, qk_norm=True)}, "no architecture"),
    "another tokenizer": ({"tokenizer": byte_metadata(260)}, "the tokenizer has 260 tokens, the model's vocabulary 259"),
    "no tokenizer": ({"tokenizer": {}}, "the tokenizer has 0 tokens"),
    "no norm": ({"parameters": changed(**{"output_norm.weight": None})}, "11 tensors, found 10: 'output_norm.weight' is mis"),
    "a head too many": ({"parameters": changed(**{"output.weight": np.ones((259, 32))})}, "12: 'output.weight' is not part"),
    "transposed": (
        {"parameters": changed(**{"token_embd.weight": np.ones((32, 259))})}, r"have shape \(259, 32\), found \(32, 259\)"
    ),
    "NaN": (with_value(np.nan), r"tensor 'token_embd.weight': 1 of 8,288 values are not finite in F16"),
    "beyond F16": (with_value(65520.0), r"not finite in F16; the largest magnitude is 6.552e\+04"),
    "infinite": (with_value(np.inf) | {"dtype": "F32"}, "not finite in F32"),
    "dtype": ({"dtype": "Q4_0"}, "written in F32 or F16, found 'Q4_0'"),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "said"), WRONG.values(), ids=WRONG)
def test_parts_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, parts, said):
    right = {"config": SMALL, "parameters": changed(), "tokenizer": byte_metadata(259)}
    with pytest.raises(ModelError, match=said):
        write_model(tmp_path / "m.gguf", **right | parts)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_number_of_f16_is_written_and_a_name_that_is_no_text_is_not(tmp_path):
    write_model(tmp_path / "m.gguf", SMALL, with_value(65519.0)["parameters"], byte_metadata(259))
    with open_gguf(tmp_path / "m.gguf") as file:
        assert file.dequantize("token_embd.weight")[3, 5] == 65504
    assert set(tensor_shapes(SMALL)) == set(file.tensors)
    with pytest.raises(GGUFError, match="lone surrogate"):
        write_model(tmp_path / "n.gguf", replace(SMALL, name="\ud800"), changed(), byte_metadata(259))
