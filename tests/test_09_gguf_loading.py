"""From a file to the first token: what is mapped is shared, what is read or unpacked is a process's own. Counts, no seconds."""

import json
import mmap
import os

import numpy as np
import pytest
from gguf_files import TYPES, random_blocks, split_file
from golden import tiny_models

from minillm.backends import get_backend
from minillm.bench import loading, proc
from minillm.bench.in_place import ROWS, Stored, in_place
from minillm.cli import main
from minillm.errors import MiniLLMError
from minillm.formats.blocks import BLOCK_TYPES, dequantize
from minillm.formats.gguf import open_gguf
from minillm.model.config import ModelConfig
from minillm.model.load import load_from
from minillm.model.random_model import byte_metadata, random_tensor, tensor_shapes
from minillm.model.transformer import Segment
from minillm.model.write import write_model

WAYS = "mapped", "read"
LINUX = pytest.mark.skipif(not proc.available(), reason="needs Linux's /proc/self/smaps_rollup and io")
CONFIG = ModelConfig(
    n_layers=2, d_model=256, n_heads=4, n_kv_heads=2, d_head=64, d_ff=2048, vocab_size=8192, context_length=64, tied=True,
    name="m",
)  # fmt: skip


# --- weights used where they lie ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 7, ROWS, ROWS + 3])
@pytest.mark.parametrize("name", ["Q4_0", "Q6_K", "F16", "F32"])
def test_a_matrix_used_where_it_lies_multiplies_as_its_weights(name, rows):
    type, rng = BLOCK_TYPES[name], np.random.default_rng(rows)
    raw = random_blocks(name, (rows, 512), rng).reshape(-1)
    if name in ("F16", "F32"):
        raw = rng.normal(size=(rows, 512)).astype({"F16": "<f2", "F32": "<f4"}[name]).view(np.uint8).reshape(-1)
    raw.flags.writeable = False
    weights, matrix = dequantize(raw, type, (rows, 512)), Stored(raw, type, (rows, 512))
    assert np.shares_memory(matrix.raw, raw)
    for tokens in (1, 5):
        x = rng.normal(size=(tokens, 512)).astype(np.float32)
        expected = x.astype(np.float64) @ weights.T.astype(np.float64)
        found = in_place().linear(x, matrix)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))
    ids = rng.integers(0, rows, 9)
    np.testing.assert_array_equal(in_place().embed(ids, matrix), weights[ids])


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("spec", ["llama", "llama_untied", "qwen2", "qwen3"])
def test_a_model_used_where_it_lies_says_the_same(tmp_path, spec, copied):
    tiny_models.write_tiny(spec, tmp_path / "m.gguf")
    logits = []
    for ops in (in_place(copied), None):
        transformer, _ = load_from(tmp_path / "m.gguf", ops or get_backend("numpy"))
        logits.append(transformer.forward([Segment(np.arange(9), 0, transformer.new_cache(9))])[0])
    np.testing.assert_allclose(*logits, atol=1e-4)


def test_without_copies_the_bytes_are_those_of_the_file(tmp_path, tiny_path):
    for copied in (False, True):
        transformer, _ = load_from(tiny_path, in_place(copied))
        raw = transformer.weights.layers[0].q.raw
        assert raw.flags.writeable == copied, "a view of the mapped file cannot be written to"


# --- what Linux says ------------------------------------------------------------------------------------------------------


def test_lines_of_proc_are_read():
    text = "55-7f ---p 00000000 00:00 0    [rollup]\nRss:        1728 kB\nPss_Dirty:   116 kB\nTHPeligible:    0\n"
    assert proc.numbers(text) == {"Rss": 1728 * 1024, "Pss_Dirty": 116 * 1024}


@LINUX
def test_pages_of_a_file_and_pages_of_its_own_are_told_apart(tmp_path):
    path, size = tmp_path / "a b.bin", 8 << 20
    path.write_bytes(os.urandom(size))
    before = proc.memory([str(path)])
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert proc.memory([str(path)])["file_rss_bytes"] == before["file_rss_bytes"] == 0, "a mapping is no page yet"
    sum(mapped[: size // 2 : 4096])
    half = proc.memory([str(path)])
    assert 0.99 < half["file_rss_bytes"] / (size // 2) < 1.1
    own = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # what malloc gives may have been there before
    own[:] = bytes(size)
    after = proc.memory([str(path)])
    assert 0.95 < (after["own_bytes"] - half["own_bytes"]) / size < 1.2
    assert after["file_rss_bytes"] == half["file_rss_bytes"] and proc.memory([])["file_rss_bytes"] == 0


# --- the benchmark --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of 14 MB in a file that nothing else maps."""
    path = tmp_path_factory.mktemp("loading") / "m.gguf"
    parameters = {name: random_tensor(name, shape, 0) for name, shape in tensor_shapes(CONFIG).items()}
    tokenizer = byte_metadata(CONFIG.vocab_size)
    tokenizer["tokenizer.ggml.tokens"][259], tokenizer["tokenizer.ggml.merges"] = "ab", ["a b"]
    write_model(path, CONFIG, parameters, tokenizer)
    return path


@pytest.fixture(scope="module")
def result(model):
    if not proc.available():
        pytest.skip("needs Linux's /proc/self/smaps_rollup and io")
    return loading.run(model, WAYS, prompt_tokens=3, rounds=1)


def bytes_of(model):
    with open_gguf(model) as file:
        return file.nbytes, sum(t.nbytes for t in file.tensors.values()), sum(t.size for t in file.tensors.values())


def test_what_is_mapped_is_not_its_own(result, model):
    total, tensors, weights = bytes_of(model)
    for cache in loading.CACHES:
        mapped, read = (result["ways"][way][cache] for way in WAYS)
        assert 0.95 * tensors <= mapped["file_rss_bytes"] <= total + 4096
        assert read["file_rss_bytes"] < 0.1 * tensors
        assert 0.9 * tensors < read["own_bytes"] - mapped["own_bytes"] < 1.3 * tensors, "the same bytes, in memory of its own"
    with loading.Child("numpy", model, 3) as child:
        numpy = child.ask()
    assert 4 * weights < numpy["own_bytes"] < 4 * weights + read["own_bytes"], "every weight as float32"
    assert numpy["file_rss_bytes"] < 0.1 * tensors


def test_two_processes_share_what_is_mapped_and_nothing_else(result):
    for way, found in result["ways"].items():
        for one in found["two"]:
            if way == "mapped":
                assert one["file_pss_bytes"] <= 0.55 * one["file_rss_bytes"], "of each page half"
            assert one["own_bytes"] > 0.9 * found["warm"]["own_bytes"], way
    share = loading.share
    together = {way: sum(map(share, found["two"])) / share(found["warm"]) for way, found in result["ways"].items()}
    assert together["mapped"] < 1.6 and together["read"] > 1.9, together


def test_a_cold_file_is_read_from_the_disk_once_and_a_warm_one_never(result, model):
    total, *_ = bytes_of(model)
    for way, found in result["ways"].items():
        assert found["warm"]["disk_bytes"] < 0.05 * total, way
    cold = [found["cold"]["disk_bytes"] for found in result["ways"].values()]
    with open(model, "rb") as file:  # does the system do it at all, when asked by this test?
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = proc.counts()["disk_bytes"]
        file.read()
    if proc.counts()["disk_bytes"] - before < 0.9 * total:
        pytest.skip("the page cache cannot be emptied here: these files are in memory, or somebody has them mapped")
    assert all(0.9 * total < n < 1.3 * total for n in cold), cold


def test_the_table_has_a_line_for_each_way_and_cache(result):
    lines = loading.table(result).splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [[way, cache] for cache in loading.CACHES for way in WAYS]
    assert [line.split()[0] for line in lines[-2:]] == list(WAYS) and lines[-1].endswith("%")
    json.dumps(result, allow_nan=False)


@LINUX
def test_all_parts_of_a_split_model_count(tmp_path, model):
    parts = split_file(model, tmp_path / "s", 7)
    with loading.Child("mapped", parts[1], 3) as child:
        found = child.ask()
        _, tensors, _ = bytes_of(model)
        assert found["file_rss_bytes"] >= 0.95 * tensors and child.ask()["file_rss_bytes"] == found["file_rss_bytes"]


@LINUX
def test_pages_of_all_parts_are_given_back(tmp_path, model):
    parts = [str(part) for part in split_file(model, tmp_path / "s", 7)]
    with open_gguf(parts[0]) as file:
        read = sum(file.raw(name).sum(dtype=np.uint64) for name in file.tensors)
        assert proc.memory(parts)["file_rss_bytes"] > 0.95 * file.nbytes
        file.release_pages()
        assert proc.memory(parts)["file_rss_bytes"] < 0.05 * file.nbytes
        assert read == sum(file.raw(name).sum(dtype=np.uint64) for name in file.tensors)


@LINUX
def test_a_child_that_cannot_load_is_one_line(tmp_path, capsys):
    bad = tmp_path / "m.gguf"
    bad.write_bytes(b"GGUF")
    assert main(["bench", "loading", "--model", str(bad)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"minillm: {bad}: offset 4: header")
    with loading.Child("mapped", bad, 3) as child, pytest.raises(MiniLLMError, match="offset 4: header"):
        child.ask()
    with pytest.raises(MiniLLMError, match="the measuring process ended with status 1; MINILLM_DEBUG=1"):
        loading.Child("no such way", bad, 3)


def test_ways_are_named_and_must_agree(capsys):
    assert main(["bench", "loading", "--ways", "mapped,tape"]) == 2
    assert "--ways takes mapped, read, numpy, numba, found 'tape'" in capsys.readouterr().err
    assert loading.near({"mapped": 1, "numpy": 1, "numba": 2}) and not loading.near({"mapped": 1, "numpy": 2, "numba": 1})


def test_elsewhere_the_benchmark_says_what_it_needs(monkeypatch, tiny_path):
    monkeypatch.setattr(proc, "available", lambda: False)
    with pytest.raises(MiniLLMError, match="expected Linux"):
        loading.run(tiny_path)


def test_every_type_can_be_used_where_it_lies():
    for name in TYPES:
        raw = random_blocks(name, (2, 256), np.random.default_rng(0)).reshape(-1)
        assert Stored(raw, BLOCK_TYPES[name], (2, 256))[np.array([1])].shape == (1, 256)
