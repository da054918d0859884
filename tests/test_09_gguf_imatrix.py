"""Importance matrices: llama.cpp's two formats both ways, whose model one is, and what is collected, against llama.cpp's sums."""

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from golden import mix_models, written_models
from hypothesis import given
from hypothesis import strategies as st

from minillm import LLM
from minillm.calibration.collect import chunks_of, collect, matrix_names
from minillm.calibration.importance import importance_matrix
from minillm.cli import main
from minillm.errors import GGUFError, ModelError
from minillm.formats.gguf import TensorInfo, open_gguf
from minillm.formats.imatrix import ImportanceMatrix, read_imatrix, write_imatrix
from minillm.formats.mixes import TYPES
from minillm.model.tokenizer import Tokenizer
from minillm.training.bpe_train import train_bpe

GOLDEN = json.loads((Path(__file__).parent / "golden" / "imatrix.json").read_text())
RNG = np.random.default_rng(5)
DENSE, EXPERTS = RNG.random((1, 48)).astype(np.float32), RNG.random((4, 7)).astype(np.float32)


def example(**changed):
    parts = {
        "sums": {"blk.1.b.weight": EXPERTS * 9, "blk.0.a.weight": DENSE * 96},
        "counts": {"blk.1.b.weight": np.float32([9, 0, 3, 84]), "blk.0.a.weight": np.float32([96])},
        "chunks": 3, "chunk_size": 32, "datasets": ["stories.txt"],
    }  # fmt: skip
    return ImportanceMatrix(**parts | changed)


def info(name, *shape):
    return TensorInfo(name, shape, TYPES["F16"], 0, 0)


def as_llama_cpp_writes(path, matrix):
    """The GGUF form, by the gguf package, as tools/imatrix/imatrix.cpp does it: names sorted, dimensions of 1 dropped."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # it has no architecture
    writer.add_key_value("general.type", "imatrix", gguf.GGUFValueType.STRING)
    writer.add_key_value("imatrix.datasets", matrix.datasets, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING)
    writer.add_uint32("imatrix.chunk_count", matrix.chunks)
    writer.add_uint32("imatrix.chunk_size", matrix.chunk_size)
    for name in sorted(matrix.sums):
        sums, counts = matrix.sums[name], matrix.counts[name]
        writer.add_tensor(f"{name}.in_sum2", sums if len(sums) > 1 else sums[0])
        writer.add_tensor(f"{name}.counts", counts[:, None] if len(counts) > 1 else counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def legacy(entries, chunks=3, text=b"stories.txt"):
    """The .dat form, as save_imatrix_legacy does it."""
    data = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        data += struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values)) + np.float32(values).tobytes()
    return data + struct.pack("<ii", chunks, len(text)) + text


def check_equal(found, expected):
    assert list(found.sums) == sorted(expected.sums) and (found.chunks, found.datasets) == (expected.chunks, expected.datasets)
    for name, sums in expected.sums.items():
        shape = (len(sums), 3, sums.shape[1]) if len(sums) > 1 else (3, sums.shape[1])
        ours, theirs = found.importance(info(name, *shape)), expected.importance(info(name, *shape))
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=name)


def test_the_gguf_form_is_byte_for_byte_what_llama_cpps_tool_writes(tmp_path):
    write_imatrix(tmp_path / "ours.gguf", example())
    as_llama_cpp_writes(tmp_path / "theirs.gguf", example())
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()
    check_equal(read_imatrix(tmp_path / "theirs.gguf"), example())
    assert read_imatrix(tmp_path / "theirs.gguf").chunk_size == 32


def test_the_older_form_is_read_and_written(tmp_path):
    dense = example(sums={"a": DENSE * 96}, counts={"a": np.float32([96])})
    (tmp_path / "theirs.dat").write_bytes(legacy([(b"a", 3, DENSE[0] * 3)]))
    check_equal(read_imatrix(tmp_path / "theirs.dat"), dense)
    write_imatrix(tmp_path / "ours.dat", dense)
    assert (tmp_path / "ours.dat").read_bytes() == (tmp_path / "theirs.dat").read_bytes()
    (tmp_path / "2024.dat").write_bytes(legacy([(b"a", 3, DENSE[0] * 3)])[: -8 - len("stories.txt")])
    early = read_imatrix(tmp_path / "2024.dat")
    assert (early.chunks, early.datasets) == (0, [])
    np.testing.assert_allclose(early.importance(info("a", 2, 48)), DENSE, rtol=1e-6)


def test_an_expert_that_met_no_token_counts_its_columns_alike():
    found = example().importance(info("blk.1.b.weight", 4, 5, 7))
    np.testing.assert_allclose(found[0], EXPERTS[0], rtol=1e-6)
    assert (found[1] == 1).all()
    np.testing.assert_allclose(found[3], EXPERTS[3] * 9 / 84, rtol=1e-6)
    assert example().importance(info("blk.0.other.weight", 5, 7)) is None


def bad_gguf(**changed):
    def write(path):
        as_llama_cpp_writes(path, example(**changed))

    return write


ROW = (b"a", 3, [1.0, 2.0])
BAD = {
    "another GGUF file": (lambda path: mix_models.write(mix_models.Spec(), path), "expected an importance matrix .*another GGUF"),
    "a text": (lambda path: path.write_text("Once upon a time there was a fox."), "expected an importance matrix, found"),
    "nothing in it": (lambda path: path.write_bytes(b""), "found an empty file"),
    "three bytes": (lambda path: path.write_bytes(b"abc"), "ends at 3, within the number of matrices"),
    "no matrix": (lambda path: path.write_bytes(legacy([])), "found 0 at offset 0"),
    "a name of 2 GB": (lambda path: path.write_bytes(struct.pack("<ii", 1, 2**31 - 1) + bytes(99)), "length of a name is 1 to"),
    "a negative width": (lambda path: path.write_bytes(legacy([ROW]).replace(b"\2\0\0\0", b"\xff" * 4, 1)), "found -1"),
    "cut": (lambda path: path.write_bytes(legacy([ROW])[:20]), "found 2 at offset 13; a number of columns is 1 to"),
    "NaN": (lambda path: path.write_bytes(legacy([(b"a", 1, [1.0, np.nan])])), "'a': expected sums of squares, found nan"),
    "negative": (bad_gguf(sums={"a": -DENSE}, counts={"a": np.float32([1])}), "'a': expected sums of squares, found -"),
    "infinite": (bad_gguf(sums={"a": DENSE * np.inf}, counts={"a": np.float32([1])}), "found inf"),
    "counts that do not fit": (bad_gguf(counts=dict.fromkeys(example().sums, np.ones(5, np.float32))), "that fit each other"),
}  # fmt: skip


@pytest.mark.parametrize(("write", "says"), BAD.values(), ids=BAD)
def test_what_is_no_importance_matrix_is_refused(tmp_path, write, says):
    write(tmp_path / "x")
    with pytest.raises(GGUFError, match=says) as error:
        read_imatrix(tmp_path / "x")
    assert "\n" not in str(error.value) and str(tmp_path / "x") in str(error.value)


@given(at=st.integers(0, 60), byte=st.integers(0, 255), cut=st.integers(0, 70))
def test_a_changed_file_of_the_older_form_loads_or_is_refused(tmp_path_factory, at, byte, cut):
    path = tmp_path_factory.getbasetemp() / "changed.dat"
    data = bytearray(legacy([ROW, (b"bb", 3, [0.5])]))
    data[at % len(data)] = byte
    path.write_bytes(bytes(data[: len(data) - cut]))
    try:
        read_imatrix(path)
    except GGUFError as error:
        assert "\n" not in str(error)


# Whose it is


def fitting(path):  # an importance matrix of a model, all ones
    with open_gguf(path) as model:
        names = [name for name, t in model.tensors.items() if name.startswith("blk.") and len(t.shape) == 2]
        sums = {name: np.ones((1, model.tensors[name].shape[-1]), np.float32) for name in names}
    return ImportanceMatrix(sums, {name: np.float32([1]) for name in sums}, path=Path("my.imatrix"))


def drop(matrix):
    del matrix.sums["blk.1.attn_v.weight"]


def add(matrix):
    matrix.sums["blk.2.attn_v.weight"] = np.ones((1, 256), np.float32)


def widen(matrix):
    matrix.sums["blk.0.ffn_down.weight"] = np.ones((1, 256), np.float32)


def experts(matrix):
    matrix.sums["blk.0.ffn_down.weight"] = np.ones((3, 512), np.float32)


ALIEN = {
    drop: "'blk.1.attn_v.weight' is not in it",
    add: "it has 'blk.2.attn_v.weight', the model does not",
    widen: "'blk.0.ffn_down.weight' has 512 columns, here it has 256",
    experts: "'blk.0.ffn_down.weight' has 512 columns, here it has 3 x 512",
}


@pytest.mark.parametrize(("change", "says"), ALIEN.items(), ids=[change.__name__ for change in ALIEN])
def test_an_imatrix_of_another_model_is_refused(tmp_path, change, says):
    path = mix_models.write(mix_models.Spec(), tmp_path / "m.gguf")
    matrix = fitting(path)
    with open_gguf(path) as model:
        matrix.check(model)
        change(matrix)
        with pytest.raises(GGUFError, match=f"my.imatrix: is an importance matrix of another model than .*: {says}"):
            matrix.check(model)


# What it collects


@pytest.mark.parametrize("name", GOLDEN["sums"])
def test_the_sums_are_those_of_llama_cpp(tmp_path, name):
    written_models.write(name, tmp_path / "m.gguf")
    transformer = LLM(tmp_path / "m.gguf", backend="numpy").transformer
    found = importance_matrix(transformer, GOLDEN["chunks"], 24, "ids")
    assert found.sums.keys() == GOLDEN["sums"][name].keys()
    assert (found.chunks, found.chunk_size, found.datasets) == (2, 24, ["ids"])
    for matrix, sums in GOLDEN["sums"][name].items():
        assert found.counts[matrix].tolist() == [48]
        tolerance = 1e-5 if name == "llama_f32" else 4e-3  # where weights are in F16, its inputs of a product are too
        np.testing.assert_allclose(found.sums[matrix][0], sums, rtol=tolerance, err_msg=matrix)


def test_a_visitor_sees_each_matrix_once_a_chunk_and_the_model_stays_as_it_was(tiny):
    transformer, seen = tiny.transformer, []
    ops, names = transformer.ops, matrix_names(transformer)
    count = collect(transformer, [[1, 2, 3], [4]], lambda name, x: seen.append((name, x.shape)), head=True)
    assert count == 2 and len(seen) == 2 * len(names) == 2 * (1 + 7 * tiny.config.n_layers)
    assert {name for name, _ in seen} == set(names.values()) and {shape[0] for _, shape in seen} == {3, 1}
    head = "token_embd.weight" if tiny.config.tied else "output.weight"
    assert [name for name, _ in seen if not name.startswith("blk.")] == [head, head]
    assert transformer.ops is ops
    seen.clear()
    collect(transformer, [[1, 2, 3]], lambda name, x: seen.append((name, x.shape)))
    assert head not in dict(seen)


def test_another_backend_is_refused(tiny_path):
    transformer = LLM(tiny_path, backend="numba").transformer
    with pytest.raises(ModelError, match="watched or replaced on the numpy backend, found a model on numba"):
        collect(transformer, [[1]], print)


def test_chunks_have_their_length_and_the_text_is_read_only_as_far_as_needed(monkeypatch):
    tokenizer = Tokenizer.from_gguf(train_bpe(["a fox and a bear " * 4], 266))
    encoded, encode = [], tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text, **options: encoded.append(text) or encode(text, **options))
    text = "a fox and a bear met an owl. " * 1000
    chunks = chunks_of(tokenizer, text, 12, 3)
    bos = [tokenizer.bos_id] if tokenizer.add_bos else []
    assert chunks.shape == (3, 12) and max(map(len, encoded)) < len(text) / 10
    assert [i for row in chunks for i in row[len(bos):]] == encode(text, bos=False)[: 3 * (12 - len(bos))]
    assert all(row[: len(bos)].tolist() == bos for row in chunks)
    assert len(chunks_of(tokenizer, "a fox and a bear", 6, 99)) == len(encode("a fox and a bear", bos=False)) // (6 - len(bos))
    with pytest.raises(ModelError, match=r"the text has \d tokens, a chunk takes \d+: give more text, or a smaller --context"):
        chunks_of(tokenizer, "a fox", 40, 1)


def test_weights_that_are_damaged_are_found_out(tmp_path):
    config = written_models.MODELS["llama_bytes"][0]
    weights = written_models.weights(config)
    weights["blk.0.ffn_norm.weight"][:] = 1e30
    from minillm.model.random_model import byte_metadata
    from minillm.model.write import write_model

    write_model(tmp_path / "m.gguf", config, weights, byte_metadata(300), dtype="F32")
    with np.errstate(all="ignore"), pytest.raises(ModelError, match="the inputs of 'blk.0.* are not finite"):
        importance_matrix(LLM(tmp_path / "m.gguf").transformer, [[1, 2, 3]], 3)


# The command


def test_the_command_writes_what_the_reader_reads(tmp_path, tiny_path, capsys):
    text = tmp_path / "t.txt"
    text.write_text("once upon a time " * 40)
    command = ["imatrix", "--model", str(tiny_path), "--text", str(text), "--chunks", "2", "--context", "16"]
    assert main([*command, "--out", str(tmp_path / "a.gguf"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": str(tmp_path / "a.gguf"), "matrices": 14, "chunks": 2, "context": 16, "tokens": 32,
    }  # fmt: skip
    found = read_imatrix(tmp_path / "a.gguf")
    with open_gguf(tiny_path) as model:
        found.check(model)
    assert (found.chunks, found.chunk_size, found.datasets) == (2, 16, ["t.txt"])
    assert main([*command, "--out", str(tmp_path / "a.dat")]) == 0
    check_equal(read_imatrix(tmp_path / "a.dat"), found)


@pytest.mark.parametrize(("options", "says"), [
    (["--chunks", "0"], "--chunks must be at least 1, found 0"),
    (["--context", "-2"], "--context must be at least 1, found -2"),
    (["--text", "none.txt"], "none.txt: the corpus cannot be read"),
    (["--out", "t.txt"], "t.txt: is the file that is read"),
    (["--text", "short.txt"], "tokens, a chunk takes"),
    (["--out", "t.txt/x"], "cannot be written"),
])  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, tiny_path, capsys, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("once upon a time " * 20)
    Path("short.txt").write_text("a")
    before = sorted(Path(".").iterdir())
    command = ["imatrix", "--model", str(tiny_path), "--text", "t.txt", "--out", "o.gguf", "--chunks", "1", "--context", "8"]
    assert main([*command, *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith("minillm: ") and err.count("\n") == 1 and says in err, err
    assert sorted(Path(".").iterdir()) == before and Path("t.txt").read_text().startswith("once")
