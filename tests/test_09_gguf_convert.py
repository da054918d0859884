"""A folder from a hub becomes a GGUF file, and back: one model to transformers, to llama.cpp and to us, and the same bytes."""

import hashlib
import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden import converted_models, tiny_models, written_models

from minillm import LLM
from minillm.cli import main
from minillm.errors import MiniLLMError
from minillm.formats.gguf import GGUFFile, open_gguf
from minillm.formats.safetensors import SafeTensor, encoded, open_safetensors
from minillm.model import write_folder, write_gguf
from minillm.model.defaults import default_sampling
from minillm.model.load import load_model
from minillm.model.random_model import TINY, byte_metadata, tensor_shapes
from minillm.model.transformer import Segment
from minillm.model.write import write_model

RECORDED = json.loads((Path(__file__).parent / "golden" / "converted.json").read_text(encoding="utf-8"))["models"]
SMALL = replace(
    TINY, n_layers=2, d_model=24, n_heads=3, n_kv_heads=1, d_head=8, d_ff=20, vocab_size=300, tied=False, name="small"
)  # fmt: skip
NOISE = 5e-3  # of the largest logit: llama.cpp keeps keys and values in 16 bits, and multiplies in them


def made(folder, config=SMALL):  # -> folder/m, by way of folder/m.gguf
    write_model(folder / "m.gguf", config, written_models.weights(config), byte_metadata(300), dtype="F32")
    return write_folder.convert(folder / "m.gguf", folder / "m")


def logits_of(path, ids):
    transformer = load_model(path, backend="numpy")[0]
    return transformer.forward([Segment(np.array(ids), 0, transformer.new_cache(), "all")])[0]


def floats(folder):  # -> {hub's name: array}, all files
    tensors = {name: t for file in folder.glob("*.safetensors") for name, t in open_safetensors(file).items()}
    kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    return {name: np.array(t.raw).view(kinds[t.dtype]).reshape(t.shape) for name, t in tensors.items()}


def save(folder, tensors, name="model.safetensors"):
    (folder / name).write_bytes(b"".join(encoded(tensors)))


def change(folder, file="config.json", **values):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# --- transformers and llama.cpp have read the same files --------------------------------------------------------------------


def test_there_is_a_recording_for_every_model():
    assert RECORDED.keys() == converted_models.MODELS.keys() | {"tiny"}


@pytest.mark.parametrize("name", RECORDED)
def test_a_converted_model_is_to_transformers_what_it_is_to_us(tmp_path, name):
    folder, recorded = converted_models.write(name, tmp_path), RECORDED[name]
    for file, digest in recorded["sha256"].items():
        path = folder / file if (folder / file).exists() else tmp_path / file
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        assert found == digest, f"{file} has other bytes than transformers has read: run golden/record_converted.py"
    expected = np.array(recorded["logits"])
    for path in (folder, tmp_path / f"{name}.gguf"):
        error = np.abs(logits_of(path, recorded["ids"])[recorded["positions"]] - expected).max() / np.abs(expected).max()
        assert error < 1e-4, path
    assert recorded["llama_cpp_apart"] < NOISE
    llm = LLM(folder, backend="numpy")
    for text, ids in recorded["texts"].items():
        assert llm.tokenizer.encode(text, special=True) == ids, text
    assert recorded["eos"] == sorted(llm.tokenizer.eos_ids) or recorded["eos"] in llm.tokenizer.eos_ids
    assert recorded["template"] == (llm.tokenizer.chat is not None)
    if recorded["temperature"] is not None:
        assert default_sampling(folder) == default_sampling(tmp_path / f"{name}.gguf") == {"temperature": 0.7, "top_p": 0.95}


# --- there and back ---------------------------------------------------------------------------------------------------------


def test_tiny_comes_back_as_the_same_file_byte_for_byte(tmp_path):
    folder = converted_models.write("tiny", tmp_path)
    write_gguf.convert(folder, tmp_path / "back.gguf")
    assert (tmp_path / "back.gguf").read_bytes() == (tmp_path / "tiny.gguf").read_bytes()


@pytest.mark.parametrize("kind", ["F16", "F32", "BF16"])
@pytest.mark.parametrize("name", converted_models.MODELS)
def test_a_file_that_was_converted_comes_back_byte_for_byte(tmp_path, name, kind):
    first = write_gguf.convert(converted_models.write(name, tmp_path), tmp_path / "first.gguf", kind)
    folder = write_folder.convert(first, tmp_path / "second")
    assert write_gguf.convert(folder, tmp_path / "again.gguf", kind).read_bytes() == first.read_bytes()
    with open_gguf(first) as file:
        kinds = {tensor.type.name for tensor in file.tensors.values() if len(tensor.shape) == 2}
        assert kinds == {kind} and file.metadata["general.license"] == "apache-2.0"
    if kind == "F16":
        assert all((floats(folder)[n] == w).all() for n, w in floats(tmp_path / name).items())
        for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
            assert (folder / file).read_bytes() == (tmp_path / name / file).read_bytes(), file


def test_a_file_of_llama_cpps_kind_has_its_weights_in_a_folder_of_any_type(tmp_path):
    tiny_models.write_tiny("mixed", tmp_path / "m.gguf")  # Q4_0, Q8_0 and F32
    state = tiny_models.state_dict("mixed")
    for dtype, kind, error in (("float32", np.float32, 0), ("float16", np.float16, 1e-3), (None, np.float16, 1e-3)):
        found = floats(write_folder.convert(tmp_path / "m.gguf", tmp_path / str(dtype), dtype=dtype))
        assert found.keys() == state.keys()
        for name, array in found.items():
            assert array.dtype == (kind if array.ndim == 2 else np.float32), name
            np.testing.assert_allclose(array, state[name], rtol=error, atol=1e-7)
    write_gguf.convert(tmp_path / "float32", tmp_path / "n.gguf", "F32")
    with open_gguf(tmp_path / "n.gguf") as back, open_gguf(tmp_path / "m.gguf") as m:
        assert back.tensors.keys() == m.tensors.keys()
        for name in back.tensors:  # the order of rows too
            np.testing.assert_array_equal(back.dequantize(name), m.dequantize(name))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "llama3_rope", "llama_mqa", "llama_untied"])
def test_a_folder_of_a_hub_becomes_the_file_that_llama_cpps_rules_make_of_it(tmp_path, name):
    from test_01_inference_folder import write_folder as write_hub

    write_gguf.convert(write_hub(name, tmp_path / "m"), tmp_path / "m.gguf", "F32")
    tiny_models.write_tiny(name, tmp_path / "expected.gguf")
    with open_gguf(tmp_path / "m.gguf") as found, open_gguf(tmp_path / "expected.gguf") as expected:
        assert found.tensors.keys() == expected.tensors.keys()
        for tensor in expected.tensors:
            np.testing.assert_allclose(found.dequantize(tensor), expected.dequantize(tensor), rtol=1e-6 * ("rope" in tensor))
        keys = {key for key in expected.metadata if not key.startswith("tokenizer") and key != "general.name"}
        assert {key: found.metadata.get(key) for key in keys} == {key: expected.metadata[key] for key in keys}
        for key in ("tokens", "merges", "bos_token_id", "eos_token_id", "add_bos_token", "pre"):
            assert found.metadata[f"tokenizer.ggml.{key}"] == expected.metadata[f"tokenizer.ggml.{key}"]


def test_divisors_of_llama_3_become_its_scaling_and_others_are_refused(tmp_path):
    config = replace(SMALL, rope_base=5e5, context_length=131072)
    for factor, low in ((8.0, 1.0), (32.0, 1.0), (8.0, 2.0)):
        scaled = replace(config, rope_scaling=replace(converted_models.MODELS["llama_llama3"][0].rope_scaling, factor=factor,
                                                      low_freq_factor=low, original_context=8192))  # fmt: skip
        write_model(tmp_path / "own.gguf", scaled, written_models.weights(config), byte_metadata(300))
        with open_gguf(tmp_path / "own.gguf") as file:
            metadata = {key: value for key, value in file.metadata.items() if ".llama3." not in key}  # as of another program
            tensors = {n: (file.raw(n), t.type, t.shape) for n, t in file.tensors.items()}
            from minillm.formats.gguf_write import write_gguf as write_file

            write_file(tmp_path / "m.gguf", metadata, tensors)
        if low == 1.0:
            folder = write_folder.convert(tmp_path / "m.gguf", tmp_path / f"f{factor}")
            found = json.loads((folder / "config.json").read_text())["rope_scaling"]
            assert found == {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 8192}  # fmt: skip
        else:
            with pytest.raises(MiniLLMError, match="divisors in rope_freqs.weight are not those of Llama 3"):
                write_folder.convert(tmp_path / "m.gguf", tmp_path / "other")


def test_the_recommended_sampling_has_llama_cpps_types(tmp_path):
    folder = made(tmp_path)
    change(folder, "generation_config.json", temperature=1, top_k=40, min_p=0.05)
    with open_gguf(write_gguf.convert(folder, tmp_path / "n.gguf")) as file:
        kinds = {key.rpartition(".")[2]: v.kind for key, v in file.verbatim().items() if key.startswith("general.sampling.")}
    assert kinds == {"temp": 6, "top_k": 5, "min_p": 6}, "float32, int32"
    assert default_sampling(tmp_path / "n.gguf") == default_sampling(folder) == {"temperature": 1.0, "top_k": 40, "min_p": 0.05}


def test_llama_3s_pre_tokenizer_takes_whole_words_without_a_key(tmp_path):
    metadata = byte_metadata(300) | {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": True}
    write_model(tmp_path / "m.gguf", SMALL, written_models.weights(SMALL), metadata)
    folder = write_folder.convert(tmp_path / "m.gguf", tmp_path / "m")
    values = json.loads((folder / "tokenizer.json").read_text())
    assert values["model"]["ignore_merges"] is True
    assert values["post_processor"]["single"][0]["SpecialToken"]["id"] == "<|im_start|>"
    with open_gguf(write_gguf.convert(folder, tmp_path / "n.gguf")) as file:
        assert not [key for key in file.metadata if key.startswith("tokenizer.minillm.")]


def test_a_vocabulary_that_is_padded_has_unused_tokens(tmp_path):
    folder = made(tmp_path)
    tensors = floats(folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.concatenate([tensors[name], np.zeros((4, 24), np.float32)])
    save(folder, tensors)
    change(folder, vocab_size=304)
    with open_gguf(write_gguf.convert(folder, tmp_path / "n.gguf", "F32")) as file:
        assert file.metadata["tokenizer.ggml.tokens"][299:] == ["[299]", *(f"[unused {i}]" for i in range(300, 304))]
        assert [int(t) for t in file.metadata["tokenizer.ggml.token_type"][-5:]] == [1, 5, 5, 5, 5]
    again = write_folder.convert(tmp_path / "n.gguf", tmp_path / "n")
    assert write_gguf.convert(again, tmp_path / "o.gguf", "F32").read_bytes() == (tmp_path / "n.gguf").read_bytes()


# --- files that are wrong ---------------------------------------------------------------------------------------------------


def shards(folder, parts=3):
    """Cut the weights of a folder over several files, as hubs do with large ones."""
    tensors = floats(folder)
    (folder / "model.safetensors").unlink()
    where = {name: f"model-{i % parts + 1:05}-of-{parts:05}.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        save(folder, {name: w for name, w in tensors.items() if where[name] == file}, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return where


def test_a_folder_in_parts_gives_the_file_of_the_whole(tmp_path):
    folder = made(tmp_path)
    whole = write_gguf.convert(folder, tmp_path / "whole.gguf").read_bytes()
    shards(folder)
    assert write_gguf.convert(folder, tmp_path / "parts.gguf").read_bytes() == whole


def without_a_part(folder):
    shards(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def without_the_index(folder):
    without_a_part(folder)
    (folder / "model.safetensors.index.json").unlink()


def with_tensors(**arrays):  # None: left out
    def edit(folder):
        tensors = floats(folder) | {name.replace("__", "."): array for name, array in arrays.items()}
        save(folder, {name: w for name, w in tensors.items() if w is not None})

    return edit


def with_value(value, name="model.layers.1.mlp.down_proj.weight", at=(3, 5)):
    def edit(folder):
        tensors = floats(folder)
        tensors[name][at] = value
        save(folder, tensors)

    return edit


DOWN = "'model.layers.1.mlp.down_proj.weight'"
WRONG_FOLDERS = {
    "a part is missing": (without_a_part, "names the file 'model-00002-of-00003.safetensors', which is not in the folder"),
    "a part and the index": (without_the_index, "tensor 'model.* of shape .* is missing"),
    "the architecture": (lambda f: change(f, architectures=["Gemma"]), "architecture 'Gemma' is not supported; these are"),
    "the tokenizer": (lambda f: change(f, "tokenizer.json", model={"type": "Unigram"}), "found 'Unigram'"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "must hold tokenizer.json, this one does not"),
    "the shape": (lambda f: change(f, intermediate_size=21), r"gate_proj.weight' must have shape \(21, 24\), found \(20, 24\)"),
    "transposed": (with_tensors(lm_head__weight=np.zeros((24, 300), np.float32)), r"'lm_head.weight' must have .* \(300, 24\)"),
    "a tensor too few": (with_tensors(model__norm__weight=None), r"tensor 'model.norm.weight' of shape \(24,\) is missing"),
    "a tensor too many": (with_tensors(model__extra=np.zeros(3, np.float32)), "tensors belong to nothing .* 'model.extra'"),
    "NaN": (with_value(np.nan), f"tensor {DOWN}: expected finite weights, found nan in row 3, column 5, the first of 1"),
    "infinite": (with_value(-np.inf), f"tensor {DOWN}: expected finite weights, found -inf in row 3, column 5"),
    "NaN in Q": (with_value(np.nan, "model.layers.0.self_attn.q_proj.weight", (13, 2)), "q_proj.weight': .* row 13, column 2"),
    "NaN in a norm": (with_value(np.nan, "model.norm.weight", 7), "'model.norm.weight': .* found nan in row 7, column 0"),
    "beyond F16": (with_value(7e4), f"tensor {DOWN}: F16 cannot hold weights .*70,000.* F32 and BF16 hold more"),
    "what it says of itself": (lambda f: (f / "gguf.json").write_text('{"llama.x": 1}'), "gguf.json: 'llama.x': expected a key"),
    "how it is sampled": (lambda f: change(f, "generation_config.json", top_k=10**12), "top_k: expected a number from -2.1"),
    "another kind of text": (lambda f: (f / "gguf.json").write_text('{"general.author": {}}'), "general.author': .* found {}"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "says"), WRONG_FOLDERS.values(), ids=WRONG_FOLDERS)
def test_a_folder_that_is_wrong_is_refused_by_name_and_the_old_file_stays(tmp_path, edit, says):
    folder = made(tmp_path)
    edit(folder)
    (tmp_path / "out.gguf").write_bytes(b"old")
    with pytest.raises(MiniLLMError, match=says) as error:
        write_gguf.convert(folder, tmp_path / "out.gguf")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.gguf", "out.gguf"]
    assert (tmp_path / "out.gguf").read_bytes() == b"old"


def stored(path, edit):
    """Write the file of `made` anew with other tensors or metadata."""
    from minillm.formats.gguf_write import write_gguf as write_file

    with open_gguf(path) as file:
        metadata, tensors = dict(file.metadata), {name: file.dequantize(name) for name in file.tensors}
    edit(metadata, tensors)
    write_file(path, metadata, tensors)


def of_weight(value):
    def edit(metadata, tensors):
        tensors["blk.0.attn_k.weight"][2, 3] = value

    return edit


NINE = np.ones(9, np.float32)
WRONG_FILES = {
    "NaN": (of_weight(np.nan), "m.gguf: tensor 'blk.0.attn_k.weight': expected finite weights, found nan in row 2, column 3"),
    "a tensor too few": (lambda m, t: t.pop("blk.1.ffn_up.weight"), "'blk.1.ffn_up.weight' must have shape .*, found none"),
    "a tensor too many": (lambda m, t: t.update(x=np.ones(2, np.float32)), "belong to nothing that is computed here: 'x'"),
    "the shape": (lambda m, t: t.update({"output_norm.weight": NINE}), r"must have shape \(24,\), found \(9,\)"),
    "divisors": (lambda m, t: t.update({"rope_freqs.weight": NINE}), r"rope_freqs.weight' must have shape \(4,\)"),
    "the architecture": (lambda m, t: m.update({"general.architecture": "gemma"}), "architecture 'gemma' is not supported"),
    "the tokenizer": (lambda m, t: m.update({"tokenizer.ggml.model": "bert"}), "found 'bert'"),
    "the pre-tokenizer": (lambda m, t: m.update({"tokenizer.ggml.pre": "default"}), "'default' has no form for tokenizer.json"),
    "two tokens of one text": (lambda m, t: m["tokenizer.ggml.tokens"].__setitem__(299, "[298]"), "298 and 299 have one text"),
    "two scalings": (
        lambda m, t: (m.update({"llama.rope.scaling.factor": 2.0}), t.update({"rope_freqs.weight": np.ones(4, np.float32)})),
        "rope_freqs.weight beside RoPE scaling 'linear' has no form in config.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "says"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_that_is_wrong_is_refused_by_name_and_no_folder_is_made(tmp_path, edit, says):
    write_model(tmp_path / "m.gguf", SMALL, written_models.weights(SMALL), byte_metadata(300), dtype="F32")
    stored(tmp_path / "m.gguf", edit)
    with pytest.raises(MiniLLMError, match=says) as error:
        write_folder.convert(tmp_path / "m.gguf", tmp_path / "m")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_folder_must_be_new_or_empty_and_what_is_there_stays(tmp_path):
    folder = made(tmp_path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for target in (folder, tmp_path / "m.gguf"):
        with pytest.raises(MiniLLMError, match="expected a new folder, or an empty one, found a"):
            write_folder.convert(tmp_path / "m.gguf", target)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "empty").mkdir()
    write_folder.convert(tmp_path / "m.gguf", tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()
    (tmp_path / "new.part").mkdir()  # a draft that a kill left behind
    (tmp_path / "new.part" / "model.safetensors.part").write_bytes(b"half")
    write_folder.convert(tmp_path / "m.gguf", tmp_path / "new")
    assert not (tmp_path / "new.part").exists() and not (tmp_path / "new" / "model.safetensors.part").exists()
    (tmp_path / "mine.part").mkdir()  # and a folder of somebody's
    (tmp_path / "mine.part" / "letter.txt").write_text("dear")
    with pytest.raises(MiniLLMError, match="cannot be made: File exists"):
        write_folder.convert(tmp_path / "m.gguf", tmp_path / "mine")
    assert (tmp_path / "mine.part" / "letter.txt").read_text() == "dear"


class Stopped(Exception):
    pass


def test_what_ends_in_the_middle_leaves_nothing_behind(tmp_path):
    folder = made(tmp_path)
    calls = []

    def stop(weights):
        calls.append(weights)
        if len(calls) == 5:
            raise Stopped

    for convert, target in ((write_gguf.convert, "x.gguf"), (write_folder.convert, "x")):
        calls.clear()
        source = folder if target == "x.gguf" else tmp_path / "m.gguf"
        with pytest.raises(Stopped):
            convert(source, tmp_path / target, progress=stop)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.gguf"]


KILLED = """
import os, sys
from minillm.model import write_folder, write_gguf
convert, source, target = sys.argv[1:]
{"f": write_folder, "g": write_gguf}[convert].convert(source, target, progress=lambda n: os.kill(os.getpid(), 9))
"""


def test_a_kill_in_the_middle_leaves_a_draft_which_the_next_run_takes(tmp_path):
    folder = made(tmp_path)
    for convert, source, target in (("f", tmp_path / "m.gguf", tmp_path / "x"), ("g", folder, tmp_path / "x.gguf")):
        words = [sys.executable, "-c", KILLED, convert, str(source), str(target)]
        assert subprocess.run(words, cwd=Path(__file__).parents[1]).returncode == -9
        draft = Path(f"{target}.part")
        assert draft.exists() and not target.exists()
        (write_folder if convert == "f" else write_gguf).convert(source, target)
        assert target.exists() and not draft.exists()


# --- what it takes ----------------------------------------------------------------------------------------------------------


def test_progress_counts_every_weight_once(tmp_path):
    folder, weights = made(tmp_path), sum(int(np.prod(shape)) for shape in tensor_shapes(SMALL).values())
    for convert, source, target in (
        (write_gguf.convert, folder, "n.gguf"), (write_folder.convert, tmp_path / "m.gguf", "n"),
    ):  # fmt: skip
        seen = []
        convert(source, tmp_path / target, progress=seen.append)
        assert sum(seen) == weights == SMALL.parameters()


def test_pages_of_a_file_are_given_back_after_each_tensor(tmp_path, monkeypatch):
    """What was read of a mapped file counts as the process's memory until then."""
    folder, released = made(tmp_path), []
    monkeypatch.setattr(SafeTensor, "release_pages", lambda tensor: released.append("folder"))
    monkeypatch.setattr(GGUFFile, "release_pages", lambda file: released.append(file.mapped is not None))
    write_gguf.convert(folder, tmp_path / "n.gguf")
    write_folder.convert(tmp_path / "m.gguf", tmp_path / "n")
    assert released == ["folder"] * len(tensor_shapes(SMALL)) + [True] * len(tensor_shapes(SMALL))


@pytest.mark.parametrize("kind", ["F16", "F32"])
def test_a_conversion_holds_a_few_rows_and_no_tensor(tmp_path, kind):
    config = replace(SMALL, n_layers=1, d_model=512, n_heads=4, n_kv_heads=4, d_head=128, d_ff=8192, tied=True)
    largest = 4 * 8192 * 512  # bytes in float32
    folder = made(tmp_path, config)
    for convert, source, target in (
        (lambda *a: write_gguf.convert(*a, kind), folder, "n.gguf"), (write_folder.convert, tmp_path / "m.gguf", "n"),
    ):  # fmt: skip
        tracemalloc.start()
        convert(source, tmp_path / target)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < largest / 2, f"{target}: {peak:,} bytes"


# --- the command ------------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    folder = made(tmp_path)
    assert main(["convert", str(folder), str(tmp_path / "n.gguf"), "--type", "bf16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    path, size = str(tmp_path / "n.gguf"), (tmp_path / "n.gguf").stat().st_size
    assert told == {"path": path, "kind": "gguf", "dtype": "BF16", "weights": SMALL.parameters(), "file_bytes": size}
    assert main(["convert", str(tmp_path / "n.gguf"), str(tmp_path / "n")]) == 0
    assert f"{SMALL.parameters():,} weights, matrices in bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["FOLDER", "x.gguf", "--type", "q4_k"], "written in F32 or F16 or BF16, found 'Q4_K'. Fewer bits: minillm quantize"),
        (["FOLDER", "x.gguf", "--dtype", "float16"], "--dtype belongs to the other direction"),
        (["FILE", "x", "--type", "f16"], "--type belongs to the other direction"),
        (["FILE", "x", "--dtype", "int8"], "matrices are written in float32 or float16 or bfloat16, found 'int8'"),
        (["nowhere/at/all", "x"], "no such file or folder: 'nowhere/at/all'"),
        (["EMPTY", "x.gguf"], "expected config.json and *.safetensors in it"),
        (["FILE", "/dev/null/x"], "cannot be made: Not a directory"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    folder = made(tmp_path)
    known = {"FOLDER": str(folder), "FILE": str(tmp_path / "m.gguf"), "EMPTY": str(tmp_path / "empty")}
    assert main(["convert", *(known.get(word, word) for word in words)]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and not list(tmp_path.glob("x*"))
