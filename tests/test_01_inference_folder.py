"""A folder with safetensors says the same as the GGUF file of the same model; a damaged one says what is wrong."""

import json
import struct

import numpy as np
import pytest
from golden import tiny_models

from minillm import LLM
from minillm.errors import MiniLLMError, ModelError
from minillm.formats.safetensors import open_safetensors
from minillm.model.transformer import Segment

safetensors = pytest.importorskip("safetensors.numpy", reason="the oracle that writes the files: pip install safetensors")

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
SMOLLM = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}]}


def write_folder(name, folder, weights=None):
    """The tiny model `name` as a hub would keep it: config.json, tokenizer.json, tokenizer_config.json, model.safetensors."""
    spec, words = tiny_models.SPECS[name], tiny_models.tokens()
    folder.mkdir()
    config = {
        "architectures": [CLASSES[spec.architecture]],
        "num_hidden_layers": spec.layers,
        "hidden_size": spec.hidden,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.d_head,
        "intermediate_size": spec.ffn,
        "vocab_size": len(words),
        "max_position_embeddings": tiny_models.CONTEXT,
        "rms_norm_eps": spec.eps,
        "rope_theta": spec.rope_base,
        "rope_scaling": spec.rope_scaling,
        "tie_word_embeddings": spec.tied,
    }
    added = [{"id": words.index(t), "content": t, "special": True} for t in tiny_models.SPECIAL]
    vocabulary = {t: i for i, t in enumerate(words) if t not in tiny_models.SPECIAL}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [m.split(" ") for m in tiny_models.MERGES]}
    tokenizer = {"model": model, "pre_tokenizer": SMOLLM, "added_tokens": added}
    options = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>", "chat_template": tiny_models.TEMPLATE}
    for file, values in (("config", config), ("tokenizer", tokenizer), ("tokenizer_config", options)):
        (folder / f"{file}.json").write_text(json.dumps(values))
    safetensors.save_file(weights or tiny_models.state_dict(name), folder / "model.safetensors")
    return folder


def logits_of(llm, ids):
    return llm.transformer.forward([Segment(ids, 0, llm.transformer.new_cache(), "all")])[0]


@pytest.mark.parametrize("name", [name for name, spec in tiny_models.SPECS.items() if not spec.quantized])
def test_a_folder_gives_the_logits_of_the_gguf_file(name, tmp_path):
    tiny_models.write_tiny(name, tmp_path / "m.gguf")
    folder, file = LLM(write_folder(name, tmp_path / "m")), LLM(tmp_path / "m.gguf")
    ids = np.arange(40) % folder.config.vocab_size
    expected = logits_of(file, ids)
    np.testing.assert_allclose(logits_of(folder, ids), expected, atol=2e-5 * np.abs(expected).max())


def test_a_folder_has_the_tokenizer_of_the_gguf_file(tmp_path):
    tiny_models.write_tiny("llama", tmp_path / "m.gguf")
    folder, file = LLM(write_folder("llama", tmp_path / "m")), LLM(tmp_path / "m.gguf")
    for text in ("hello and the thing 1234", "<|im_end|>", "é \n\n x"):
        assert folder.tokenizer.encode(text) == file.tokenizer.encode(text)
    talk = [{"role": "user", "content": "hi"}]
    assert folder.chat(talk) == file.chat(talk) and folder.tokenizer.eos_ids == file.tokenizer.eos_ids


def test_sixteen_bit_weights_are_widened(tmp_path):
    half = {k: v.astype(np.float16) for k, v in tiny_models.state_dict("llama").items()}
    wide = {k: v.astype(np.float32) for k, v in half.items()}
    a, b = (LLM(write_folder("llama", tmp_path / n, w)) for n, w in (("half", half), ("wide", wide)))
    np.testing.assert_array_equal(logits_of(a, [1, 2, 3]), logits_of(b, [1, 2, 3]))


def test_bfloat16_is_read_as_its_library_reads_it(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.linspace(-3, 3, 48, dtype=np.float32).astype(ml_dtypes.bfloat16)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [48], "data_offsets": [0, 96]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())
    from minillm.formats.blocks import BLOCK_TYPES, dequantize

    tensor = open_safetensors(tmp_path / "x.safetensors")["w"]
    np.testing.assert_array_equal(dequantize(tensor.raw, BLOCK_TYPES[tensor.dtype], tensor.shape), values.astype(np.float32))


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"w": entry(offsets=(0, 80))}, "truncated"),
        ({"w": entry(shape=(2**62, 4))}, "needs"),
        ({"w": entry(offsets=(8, 0))}, "8 to 0"),
        ({"w": entry(shape=(-2,))}, "must have"),
        ({"w": entry(dtype="I64")}, "'I64'"),
        ({"w": [1]}, "must have"),
        ([], "must be an object"),
        ("{", "no JSON"),
    ],
)
def test_a_damaged_safetensors_file_says_what_is_wrong(tmp_path, header, says):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(ModelError) as error:
        open_safetensors(tmp_path / "x.safetensors")
    assert says in str(error.value)


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 2**60) + b"{}"])
def test_a_header_longer_than_the_file_is_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="truncated"):
        open_safetensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("config", {"architectures": ["MambaForCausalLM"]}, "LlamaForCausalLM"),
        ("config", {"hidden_size": None}, "config.json"),
        ("config", {"hidden_act": "gelu"}, "gelu"),
        ("config", {"intermediate_size": 41}, "must have shape"),
        ("config", {"num_hidden_layers": 3}, "is missing"),
        ("config", {"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, "dynamic"),
        ("tokenizer", {"model": {"type": "WordPiece"}}, "WordPiece"),
    ],
)
def test_a_folder_that_is_not_what_it_says_is_refused(tmp_path, file, change, says):
    folder = write_folder("llama", tmp_path / "m")
    path = folder / f"{file}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(MiniLLMError) as error:
        LLM(folder)
    assert says in str(error.value)
