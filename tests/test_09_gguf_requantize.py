"""Requantizing: bytes as the gguf package makes them, metadata untouched, little memory, and whole files or none."""

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType as V
from gguf_files import ARRAY, METADATA
from gguf_files import write_gguf as write_by_package
from golden import mix_models

from minillm import files
from minillm.cli import main
from minillm.errors import GGUFError
from minillm.formats import requantize as module
from minillm.formats.blocks import BLOCK_TYPES, dequantize
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import Streamed, write_gguf
from minillm.formats.imatrix import ImportanceMatrix
from minillm.formats.mixes import MIXES, TYPES
from minillm.formats.requantize import already_quantized, in_order, requantize, spans

ROOT = Path(__file__).parents[1]
ARCH = {"general.architecture": "llama"}
SHAPE = {"llama.block_count": 1, "llama.attention.head_count": 2}
CHANGED = ("general.file_type", "general.quantization_version")
PACKAGES_OWN = ("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4")  # what the gguf package quantizes too


def model(path, tensors=None, metadata=None):
    """A file with a few matrices of layer 0 in F16, awkward in shape, and a vector."""
    rng = np.random.default_rng(3)
    own = {
        "token_embd.weight": rng.normal(size=(7, 288)).astype(np.float16),
        "output.weight": rng.normal(size=(5, 288)).astype(np.float16),
        "output_norm.weight": rng.normal(size=288).astype(np.float32),
        "blk.0.attn_q.weight": rng.standard_t(2, size=(3, 288)).astype(np.float16),
        "blk.0.ffn_down.weight": rng.standard_t(2, size=(9, 96)).astype(np.float32),
        "blk.0.ffn_up_exps.weight": rng.normal(size=(3, 4, 64)).astype(np.float16),
        "blk.0.ffn_gate.weight": rng.normal(size=(4, 40)).astype(np.float16),
    }
    write_gguf(path, ARCH | SHAPE | (metadata or {}), tensors or own)
    return path


def convert(source, target, mix="q4_0", *more, **options):
    with open_gguf(source) as opened:
        return requantize(opened, target, mix, *more, **options)


# --- metadata and tensors as they stand -----------------------------------------------------------------------------------


@pytest.fixture
def odd_metadata(tmp_path):
    """Every type of metadata, and what Python values would lose: a NaN with a payload, an empty array of arrays, a u8."""
    rows = [row for row in METADATA if row[2] != ARRAY] + [row for row in METADATA if row[2] == ARRAY]
    path = write_by_package(tmp_path / "odd.gguf", metadata=[
        *rows, ("t.file_type", 1, V.UINT8, None), ("llama.block_count", 1, V.UINT16, None),
        ("llama.attention.head_count", 2, V.UINT64, None), ("t.nan", 0.5, V.FLOAT32, None), ("t.rows", [[7]], ARRAY, ARRAY),
    ], alignment=64)  # fmt: skip
    data = path.read_bytes().replace(b"t.nan\x06\x00\x00\x00\x00\x00\x00\x3f", b"t.nan\x06\x00\x00\x00\x01\x00\xa0\x7f")
    path.write_bytes(data)
    return path


def test_metadata_of_every_type_are_copied_byte_for_byte(tmp_path, odd_metadata):
    with open_gguf(odd_metadata) as source:
        write_gguf(tmp_path / "copy.gguf", source.verbatim(), {})
    assert (tmp_path / "copy.gguf").read_bytes() == odd_metadata.read_bytes()
    assert b"\x01\x00\xa0\x7f" in odd_metadata.read_bytes(), "the specimen has no odd NaN"


def test_requantizing_changes_two_keys_and_no_other(tmp_path, odd_metadata):
    convert(odd_metadata, tmp_path / "new.gguf", "q8_0")
    with open_gguf(odd_metadata) as old, open_gguf(tmp_path / "new.gguf") as new:
        before, after = old.verbatim(), new.verbatim()
        assert {key: value for key, value in after.items() if key not in CHANGED} == before
        assert list(after) == [*before, *reversed(CHANGED)]
        assert [new.metadata[key] for key in CHANGED] == [7, 2] and new.alignment == 64
    convert(tmp_path / "new.gguf", tmp_path / "again.gguf", "f16")
    with open_gguf(tmp_path / "again.gguf") as again:
        assert list(again.metadata) == list(after) and again.metadata["general.file_type"] == 1, "a key is changed in its place"


def test_keys_of_a_split_are_dropped_and_those_of_an_imatrix_added(tmp_path):
    source = model(tmp_path / "m.gguf", metadata={"split.no": 0, "split.count": 1, "split.tensors.count": 7, "t.x": "kept"})
    sums = {"blk.0.attn_q.weight": np.ones((1, 288), np.float32), "blk.0.ffn_down.weight": np.ones((1, 96), np.float32)}
    sums |= {"blk.0.ffn_gate.weight": np.ones((1, 40), np.float32), "blk.0.ffn_up_exps.weight": np.ones((3, 64), np.float32)}
    counts = {name: np.ones(len(values), np.float32) for name, values in sums.items()}
    imatrix = ImportanceMatrix(sums, counts, 5, 512, ["stories.txt"], Path("some/where/my.imatrix"))
    convert(source, tmp_path / "new.gguf", "q4_0", imatrix)
    fields = gguf.GGUFReader(tmp_path / "new.gguf").fields
    assert {key: field.contents() for key, field in fields.items() if key.startswith(("split", "quantize", "t."))} == {
        "t.x": "kept", "quantize.imatrix.file": "my.imatrix", "quantize.imatrix.dataset": "stories.txt",
        "quantize.imatrix.entries_count": 4, "quantize.imatrix.chunks_count": 5,
    }  # fmt: skip


@pytest.mark.parametrize("mix", PACKAGES_OWN)
def test_every_tensor_holds_what_the_gguf_package_makes_of_its_weights(tmp_path, mix):
    source = model(tmp_path / "m.gguf")
    convert(source, tmp_path / "new.gguf", mix, threads=2)
    old, new = gguf.GGUFReader(source), gguf.GGUFReader(tmp_path / "new.gguf")
    assert [t.name for t in new.tensors] == [t.name for t in old.tensors]
    for was, is_ in zip(old.tensors, new.tensors, strict=True):
        assert list(is_.shape) == list(was.shape), was.name
        weights = gguf.quants.dequantize(was.data, was.tensor_type)
        expected = gguf.quants.quantize(weights, is_.tensor_type)
        assert is_.data.tobytes() == expected.tobytes(), f"{was.name} as {is_.tensor_type.name}"
    types = {t.name: t.tensor_type.name for t in new.tensors}
    assert types["output_norm.weight"] == "F32" and types["blk.0.ffn_down.weight"] == MIXES[mix].type
    assert types["blk.0.ffn_gate.weight"] == (MIXES[mix].type if mix in ("f32", "bf16") else "F16"), "rows of 40 have no block"


def test_a_file_that_llama_cpp_would_say_is_quantized_already_is_told_of(tmp_path):
    convert(model(tmp_path / "m.gguf"), tmp_path / "q8.gguf", "q8_0")
    convert(tmp_path / "q8.gguf", tmp_path / "q4.gguf", "q4_1")
    floats, rounded, q4 = (open_gguf(tmp_path / f"{name}.gguf") for name in ("m", "q8", "q4"))
    with floats, rounded, q4:
        assert already_quantized(floats) is None and already_quantized(rounded) == "Q8_0"
        weights = rounded.dequantize("blk.0.attn_q.weight")
        expected = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_1)
        assert q4.raw("blk.0.attn_q.weight").tobytes() == expected.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 5, 10**20])
def test_threads_and_chunks_do_not_change_a_byte(tmp_path, monkeypatch, threads):
    source = model(tmp_path / "m.gguf")
    convert(source, tmp_path / "one.gguf", threads=1)
    monkeypatch.setattr(module, "CHUNK", 100)  # less than two rows of one, three of another
    seen = []
    convert(source, tmp_path / "many.gguf", threads=threads, progress=seen.append)
    assert (tmp_path / "many.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()
    with open_gguf(source) as opened:
        assert sum(seen) == sum(info.size for info in opened.tensors.values()) and len(seen) > 20


def test_results_come_in_order_and_few_are_waited_for():
    from concurrent.futures import ThreadPoolExecutor

    asked = []

    def work(start, stop):
        time.sleep(0.002 * (start % 3))
        return np.array([start, stop])

    with ThreadPoolExecutor(3) as pool:
        results = in_order(pool, 4, work, (asked.append(i) or (i, i + 2) for i in range(20)))
        rows, first = next(results)
        assert rows == 2 and first.tolist() == [0, 2] and len(asked) == 4
        assert [int(made[0]) for _, made in results] == list(range(1, 20))


def test_no_chunk_reaches_over_two_experts(tmp_path, monkeypatch):
    with open_gguf(model(tmp_path / "m.gguf")) as source:
        info = source.tensors["blk.0.ffn_up_exps.weight"]
        monkeypatch.setattr(module, "CHUNK", 3 * 64)
        assert list(spans(info)) == [(0, 3), (3, 4), (4, 7), (7, 8), (8, 11), (11, 12)]
        monkeypatch.setattr(module, "CHUNK", 10**6)
        assert list(spans(info)) == [(0, 4), (4, 8), (8, 12)]
        assert list(spans(source.tensors["output_norm.weight"])) == [(0, 1)]


def test_each_expert_is_encoded_with_its_own_importance(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(module.blocks, "quantize", lambda rows, type_, importance: asked.append((rows.shape, importance))
                        or np.zeros(type_.nbytes(rows.shape), np.uint8))  # fmt: skip
    name = "blk.0.ffn_up_exps.weight"
    weights = np.ones((3, 4, 64), np.float32)
    sums = np.arange(3, dtype=np.float32)[:, None] * np.ones((3, 64), np.float32)
    source = model(tmp_path / "m.gguf", {name: weights})
    convert(source, tmp_path / "new.gguf", "q4_0", ImportanceMatrix({name: sums}, {name: np.ones(3, np.float32)}), threads=1)
    assert [shape for shape, _ in asked] == [(4, 64)] * 3
    assert [set(importance.tolist()) for _, importance in asked] == [{0.0}, {1.0}, {2.0}]


# --- memory ---------------------------------------------------------------------------------------------------------------


def peak_of(work):  # -> bytes that NumPy and Python allocated at most
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_large_tensor_passes_through_little_memory(tmp_path):
    rows, columns = 4096, 1024  # 16 MB in float32
    part = np.random.default_rng(1).normal(size=(256, columns)).astype(np.float16)
    streamed = Streamed(BLOCK_TYPES["F16"], (rows, columns), lambda: (part.copy() for _ in range(rows // len(part))))
    assert peak_of(lambda: write_gguf(tmp_path / "m.gguf", ARCH | SHAPE, {"blk.0.attn_q.weight": streamed})) < 3 * part.nbytes
    peak = peak_of(lambda: convert(tmp_path / "m.gguf", tmp_path / "new.gguf", "q4_0", threads=1))
    assert peak < rows * columns * 4 / 3, f"{peak:,} bytes"


def test_a_model_is_written_without_a_second_copy(tmp_path):
    from minillm.model.config import ModelConfig
    from minillm.model.random_model import byte_metadata, tensor_shapes
    from minillm.model.write import write_model

    config = ModelConfig(n_layers=4, d_model=512, n_heads=4, n_kv_heads=4, d_head=128, d_ff=1024, vocab_size=4096,
                         context_length=64, tied=False)  # fmt: skip
    weights = {name: np.ones(shape, np.float32) for name, shape in tensor_shapes(config).items()}
    tokenizer, largest = byte_metadata(4096), max(array.nbytes for array in weights.values())
    peak = peak_of(lambda: write_model(tmp_path / "m.gguf", config, weights, tokenizer))
    assert peak < largest / 2, f"{peak:,} bytes"


def test_chunks_that_are_too_few_or_too_many_leave_no_file(tmp_path):
    for count in (0, 1, 3):
        streamed = Streamed(BLOCK_TYPES["F32"], (2, 4), lambda count=count: [np.ones(4, np.float32)] * count)
        with pytest.raises(GGUFError, match=f"tensor 'w': expected chunks of 32 bytes in all, found {16 * count}"):
            write_gguf(tmp_path / "a.gguf", ARCH, {"w": streamed})
    assert list(tmp_path.iterdir()) == []


# --- bad input ------------------------------------------------------------------------------------------------------------


def with_value(value, name="blk.0.attn_q.weight", dtype=np.float32):
    weights = np.ones((300, 288), dtype)
    weights[270, 5] = value
    return {"blk.0.attn_v.weight": np.ones((2, 32), dtype), name: weights}


BAD = {
    "NaN": (with_value(np.nan), "q4_0", "tensor 'blk.0.attn_q.weight': expected finite weights, found nan in row 270, column 5"),
    "infinite in F16": (with_value(-np.inf, dtype=np.float16), "f32", "'blk.0.attn_q.weight': .*found -inf in row 270"),
    "NaN in what is copied": (with_value(np.nan), "f32", "expected finite weights, found nan in row 270"),
    "NaN in a vector": ({"output_norm.weight": np.array([1, np.nan], np.float32)}, "q8_0", "'output_norm.weight': expected fin"),
    "beyond F16": (with_value(1e6), "f16", "tensor 'blk.0.attn_q.weight': F16"),
    "beyond Q4_0": (with_value(1e9), "q4_0", "tensor 'blk.0.attn_q.weight': Q4_0"),
    "a type that is not decoded": (
        {"blk.0.attn_q.weight": (np.zeros(66, np.uint8), TYPES["IQ2_XXS"], (1, 256))}, "q8_0",
        "'blk.0.attn_q.weight': weights of type IQ2_XXS are not decoded here",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "mix", "says"), BAD.values(), ids=BAD)
def test_weights_that_cannot_be_are_named_and_no_file_is_there(tmp_path, monkeypatch, tensors, mix, says):
    monkeypatch.setattr(module, "CHUNK", 100 * 288)
    if mix == "q8_0" and "blk.0.attn_q.weight" in tensors:
        tensors = dict(tensors) | {"blk.0.attn_k.weight": np.ones((2, 32), np.float32)}
        raw, type_, _ = tensors["blk.0.attn_q.weight"]
        tensors["blk.0.attn_q.weight"] = (np.tile(raw, 2), type_, (2, 256))
    source = model(tmp_path / "m.gguf", tensors)
    with pytest.raises(GGUFError, match=says) as error:
        convert(source, tmp_path / "new.gguf", mix)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{source}: ")
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_undecodable_weights_that_stay_as_they_are_are_copied(tmp_path):
    raw = np.arange(132, dtype=np.uint8)
    tensors = {"blk.0.ffn_norm.weight": (raw, TYPES["I8"], (132,)), "blk.0.attn_q.weight": np.ones((2, 32), np.float32)}
    convert(model(tmp_path / "m.gguf", tensors), tmp_path / "new.gguf", "q8_0")
    with open_gguf(tmp_path / "new.gguf") as new:
        assert new.raw("blk.0.ffn_norm.weight").tobytes() == raw.tobytes()


def test_the_file_that_is_read_is_not_written(tmp_path):
    source = model(tmp_path / "m.gguf")
    (tmp_path / "link.gguf").symlink_to(source)
    (tmp_path / "hard.gguf").hardlink_to(source)
    before = source.read_bytes()
    for target in (source, tmp_path / "." / "m.gguf", tmp_path / "link.gguf", tmp_path / "hard.gguf"):
        with pytest.raises(GGUFError, match="is the file that is read; give the new one another name"):
            convert(source, target)
    assert source.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["hard.gguf", "link.gguf", "m.gguf"]


def test_constant_zero_and_denormal_rows_are_encoded(tmp_path):
    tiny = float(np.float32(1e-41))
    rows = np.stack([np.zeros(256), np.full(256, 3.5), np.full(256, -3.5), np.full(256, tiny), np.eye(1, 256)[0]])
    source = model(tmp_path / "m.gguf", {"blk.0.attn_q.weight": rows.astype(np.float32)})
    for mix in PACKAGES_OWN:
        convert(source, tmp_path / "new.gguf", mix)
        with open_gguf(tmp_path / "new.gguf") as new:
            info = new.tensors["blk.0.attn_q.weight"]
            back = dequantize(new.raw(info.name), info.type, info.shape)
        assert np.isfinite(back).all() and (back[0] == 0).all() and np.allclose(back[1:3], rows[1:3], rtol=0.15), mix


# --- whole files or none --------------------------------------------------------------------------------------------------


CHILD = """
import sys, time
from minillm.formats import requantize as module
from minillm.formats.gguf import open_gguf
module.CHUNK = 4096
source, target, delay = sys.argv[1:]
with open_gguf(source) as opened:
    module.requantize(opened, target, "q8_0", progress=lambda weights: time.sleep(float(delay)))
"""


def child(*words, **options):
    return subprocess.Popen([sys.executable, *words], env=os.environ | {"PYTHONPATH": str(ROOT)}, **options)


@pytest.mark.parametrize("old", [None, b"what stood there"], ids=["no file before", "a file before"])
def test_a_writer_that_is_killed_leaves_no_file_or_a_whole_one(tmp_path, old):
    """kill -9 at several points of the writing: nothing under the name but what was there, until all of it is."""
    source = mix_models.write(mix_models.Spec(layers=8, width=4096, ffn=8192), tmp_path / "m.gguf")
    convert(source, tmp_path / "whole.gguf", "q8_0")
    whole, target = (tmp_path / "whole.gguf").read_bytes(), tmp_path / "new.gguf"
    draft, seen = tmp_path / "new.gguf.part", []
    for share in (0.0, 0.3, 0.7):
        if old is not None:
            target.write_bytes(old)
        process = child("-c", CHILD, source, target, "0.005")
        while process.poll() is None and not (draft.exists() and draft.stat().st_size >= share * len(whole)):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(draft.stat().st_size if draft.exists() else None)
        assert (target.read_bytes() if target.exists() else None) in (old, whole)
    assert any(size is not None and size < len(whole) for size in seen), "no kill came while it wrote"
    assert child("-c", CHILD, source, target, "0").wait() == 0
    assert target.read_bytes() == whole and not draft.exists(), "what a killed writer left is taken over by the next"


@pytest.mark.skipif(os.name != "posix", reason="limits of files are POSIX's")
def test_a_disk_that_is_full_is_one_line_and_nothing_half_written(tmp_path):
    """The system refuses bytes beyond a limit, as a full disk does, in the middle of the weights."""
    model(tmp_path / "m.gguf")
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); from minillm.cli import main; "
    code += "sys.exit(main(['quantize', 'm.gguf', 'new.gguf', '--type', 'f32']))"
    process = child("-c", code, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.count("\n") == 1, err
    assert err.startswith("minillm: new.gguf: cannot be written: File too large. What stood there is as it was.")
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_control_c_leaves_nothing(tmp_path):
    source = model(tmp_path / "m.gguf")

    def stop(weights):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "new.gguf", progress=stop)
    assert os.listdir(tmp_path) == ["m.gguf"]


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_name_that_is_none_is_refused(name):
    said = "cannot be written: it is a folder, not the name of a file"
    with pytest.raises(GGUFError, match=said), files.replacing(name, GGUFError):
        pass


# --- the command ----------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_did(tmp_path, capsys):
    source, target = model(tmp_path / "m.gguf"), tmp_path / "new.gguf"
    assert main(["quantize", str(source), str(target), "--type", "Q8_0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    tensors = gguf.GGUFReader(target).tensors
    assert said["types"] == {t.name: t.tensor_type.name for t in tensors} and said["written"] is True
    assert said["tensor_bytes"] == sum(t.n_bytes for t in tensors) and said["weights"] == sum(t.n_elements for t in tensors)
    assert said["bits_per_weight"] == 8 * said["tensor_bytes"] / said["weights"]
    assert said["tensor_bytes_before"] == sum(t.n_bytes for t in gguf.GGUFReader(source).tensors)
    assert main(["quantize", str(target), str(tmp_path / "q4.gguf"), "--type", "q4_0"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and "bits per weight" in out and str(tmp_path / "q4.gguf") in out
    assert err == f"minillm: {target} was in Q8_0 already: what that rounding lost is not won back.\n"


def test_a_dry_run_lists_types_and_writes_nothing(tmp_path, capsys):
    source = model(tmp_path / "m.gguf")
    assert main(["quantize", str(source), "--type", "q4_k_m", "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["written"] is False and said["path"] is None
    assert said["types"]["blk.0.ffn_down.weight"] == "Q8_0" and said["types"]["blk.0.attn_q.weight"] == "Q5_0"
    assert main(["quantize", str(source), str(tmp_path / "x.gguf"), "--type", "q4_k_m", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in said["types"]) and "9 x 96" in out
    assert os.listdir(tmp_path) == ["m.gguf"]


def alien(path):
    from minillm.formats.imatrix import write_imatrix

    name = "blk.7.attn_q.weight"
    write_imatrix(path, ImportanceMatrix({name: np.ones((1, 32), np.float32)}, {name: np.ones(1)}))


@pytest.mark.parametrize(("words", "says"), [
    (["m.gguf", "new.gguf", "--type", "q4_k_n"], "no type is called 'q4_k_n'; did you mean 'q4_k_"),
    (["m.gguf", "new.gguf", "--type", "zz"], "no type is called 'zz'; there are: f32, f16"),
    (["m.gguf", "m.gguf", "--type", "q8_0"], "m.gguf: is the file that is read"),
    (["m.gguf", "--type", "q8_0"], "OUT is missing"),
    (["none.gguf", "new.gguf", "--type", "q8_0"], "no such file or folder: 'none.gguf'"),
    (["text", "new.gguf", "--type", "q8_0"], "text: offset 0: magic: expected b'GGUF'"),
    (["m.gguf", "text/new.gguf", "--type", "q8_0"], "text/new.gguf: cannot be written: "),
    (["m.gguf", "new.gguf", "--type", "q8_0", "--imatrix", "text"], "text: expected an importance matrix"),
    (["m.gguf", "new.gguf", "--type", "q8_0", "--imatrix", "m.gguf"], "m.gguf: expected an importance matrix"),
    (["m.gguf", "new.gguf", "--type", "q8_0", "--imatrix", "alien"], "alien: is an importance matrix of another"),
    (["m.gguf", "--type", "q8_0", "--imatrix", "alien", "--dry-run"], "it has 'blk.7.attn_q.weight', the model does not"),
    (["m.gguf", "new.gguf", "--type", "q8_0", "--threads", "0"], "--threads must be at least 1"),
    (["folder", "new.gguf", "--type", "q8_0"], "folder is a folder; expected config.json"),
])  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "m.gguf")
    (tmp_path / "text").write_text("Once upon a time")
    (tmp_path / "folder").mkdir()
    alien(tmp_path / "alien")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert main(["quantize", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("minillm: ") and err.count("\n") == 1 and says in err, err
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
