"""The GGUF writer: byte for byte the gguf package's files, read back by both readers, whole or not there at all."""

import os

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType as V
from gguf_files import ARRAY, METADATA, TYPES, random_blocks
from gguf_files import write_gguf as write_by_package
from hypothesis import given
from hypothesis import strategies as st

from minillm import LLM, SamplingParams, files
from minillm.errors import GGUFError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import write_gguf
from minillm.model.config import ModelConfig
from minillm.model.random_model import random_tensor, tensor_shapes
from minillm.training.bpe_train import train_bpe

DTYPES = {
    V.UINT8: np.uint8, V.INT8: np.int8, V.UINT16: np.uint16, V.INT16: np.int16, V.UINT32: np.uint32, V.INT32: np.int32,
    V.UINT64: np.uint64, V.INT64: np.int64, V.FLOAT32: np.float32, V.FLOAT64: np.float64, V.BOOL: np.bool_,
}  # fmt: skip
ARCH = {"general.architecture": "llama"}
ONE = {"w": np.ones((2, 32), np.float32)}


def typed(value, type, element):
    """A specimen's value with the type that its row asks for."""
    if type == ARRAY:
        return np.array(value, DTYPES[element]) if element in DTYPES else value
    return DTYPES[type](value) if type in DTYPES else value


def specimen(rng):
    """Tensors of each stored type, as our writer and as the gguf package want them."""
    ours, theirs = {}, []
    shapes = [(3, 5), (1,), (7,), (2, 1, 3), (1, 2, 3, 33), (64, 48)]
    for i, shape in enumerate(shapes):
        for name, dtype in (("F32", np.float32), ("F16", np.float16)):
            array = ours[f"{i}.{name}"] = rng.normal(size=shape).astype(dtype)
            theirs.append((f"{i}.{name}", array, name))
    for name in TYPES[3:]:
        raw = random_blocks(name, (3, 512), rng)
        ours[name] = (raw, BLOCK_TYPES[name], (3, 512))
        theirs.append((name, raw, name))
    return ours, theirs


@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_a_file_is_byte_for_byte_that_of_the_gguf_package(tmp_path, alignment):
    ours, theirs = specimen(np.random.default_rng(1))
    metadata = ARCH | ({"general.alignment": alignment} if alignment else {})
    metadata |= {key: typed(value, type, element) for key, value, type, element in METADATA}
    write_gguf(tmp_path / "ours", metadata, ours)
    write_by_package(tmp_path / "theirs", theirs, METADATA, alignment=alignment)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_both_readers_find_what_was_written(tmp_path):
    ours, _ = specimen(np.random.default_rng(2))
    write_gguf(str(tmp_path / "a.gguf"), ARCH | {"t.list": [1, -2]}, ours)
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    with open_gguf(tmp_path / "a.gguf") as file:
        assert file.metadata["t.list"].tolist() == reader.fields["t.list"].contents() == [1, -2]
        assert list(file.tensors) == [t.name for t in reader.tensors] == list(ours)
        for t in reader.tensors:
            wanted = ours[t.name]
            shape = wanted[2] if isinstance(wanted, tuple) else wanted.shape
            bytes_ = (wanted[0] if isinstance(wanted, tuple) else wanted).tobytes()
            assert file.tensors[t.name].shape == shape == tuple(int(n) for n in t.shape[::-1])
            assert file.raw(t.name).tobytes() == t.data.tobytes() == bytes_
            assert file.tensors[t.name].offset % 32 == 0


@pytest.mark.parametrize(
    "value, types",
    [
        (0, [V.UINT32]), (2**32 - 1, [V.UINT32]), (-1, [V.INT32]), (2**32, [V.INT64]), (-(2**31) - 1, [V.INT64]),
        (2**63, [V.UINT64]), (True, [V.BOOL]), (0.5, [V.FLOAT32]), ("é", [V.STRING]), ("", [V.STRING]),
        ([1, 3], [ARRAY, V.INT32]), ([2**31], [ARRAY, V.UINT32]), ([-1, 2**31], [ARRAY, V.INT64]),
        ([0, 2**64 - 1], [ARRAY, V.UINT64]),
        ([True, False], [ARRAY, V.BOOL]), ((0.5, float("inf")), [ARRAY, V.FLOAT32]), (["a", ""], [ARRAY, V.STRING]),
        (np.float64(0.1), [V.FLOAT64]), (np.int8(-3), [V.INT8]), ([np.uint16(7)], [ARRAY, V.UINT16]),
        (np.arange(6, dtype=np.int16)[::2], [ARRAY, V.INT16]),
    ],
)  # fmt: skip
def test_python_values_get_the_types_that_llama_cpp_wants(tmp_path, value, types):
    write_gguf(tmp_path / "a.gguf", ARCH | {"t.x": value}, {})
    field = gguf.GGUFReader(tmp_path / "a.gguf").fields["t.x"]
    assert field.types[:2] == types
    wanted = value.tolist() if isinstance(value, np.ndarray) else list(value) if isinstance(value, tuple) else value
    assert field.contents() == wanted


def test_empty_lists_and_nested_ones(tmp_path):
    metadata = ARCH | {"t.none": [], "t.floats": np.zeros(0, np.float32), "t.nested": [["a"], [], [1, 2]], "t.deep": [[[["x"]]]]}
    write_gguf(tmp_path / "a.gguf", metadata, {})
    with open_gguf(tmp_path / "a.gguf") as file:
        found = file.metadata
    assert found["t.none"] == [] and found["t.floats"].dtype == np.float32 and len(found["t.floats"]) == 0
    assert [list(row) for row in found["t.nested"]] == [["a"], [], [1, 2]] and found["t.deep"] == [[[["x"]]]]


scalars = st.integers(-(2**63), 2**64 - 1) | st.booleans() | st.floats(width=32, allow_nan=False) | st.text()
lists = st.lists(st.text()) | st.lists(st.booleans(), min_size=1) | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)


@given(st.dictionaries(st.text(min_size=1, max_size=9).map("t.{}".format), scalars | lists))
def test_any_metadata_comes_back(tmp_path_factory, metadata):
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    write_gguf(path, metadata, {})
    with open_gguf(path) as file:
        found = file.metadata
    assert list(found) == list(metadata)
    for key, value in metadata.items():
        back = found[key].tolist() if isinstance(found[key], np.ndarray) else found[key]
        assert back == value and type(back) is type(value), key


def test_a_transposed_array_is_written_in_the_order_of_its_rows(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_gguf(tmp_path / "a.gguf", ARCH, {"t": array.T, "s": array[:, ::2]})
    with open_gguf(tmp_path / "a.gguf") as file:
        assert (file.dequantize("t") == array.T).all() and (file.dequantize("s") == array[:, ::2]).all()


q4 = BLOCK_TYPES["Q4_0"]
HOSTILE = {
    "alignment 0": ({"general.alignment": 0}, {}, "expected a power of two from 8 to .*found 0"),
    "alignment 4": ({"general.alignment": 4}, {}, "found 4"),
    "alignment 48": ({"general.alignment": 48}, {}, "found 48"),
    "alignment 2^32": ({"general.alignment": 2**32}, {}, "found 4294967296"),
    "alignment text": ({"general.alignment": "32"}, {}, "found 32"),
    "alignment u64": ({"general.alignment": np.uint64(32)}, {}, "found 32"),
    "no key": ({"": 1}, {}, "expected a name of 1 to 65,535 bytes, found 0"),
    "long key": ({"k" * 65_536: 1}, {}, "expected a name of 1 to 65,535 bytes, found 65,536"),
    "key of another type": ({3: 1}, {}, "'3': expected a name that is a str, found int"),
    "key with a surrogate": ({"a\udc00": 1}, {}, r"lone surrogate U\+DC00 at character 1"),
    "value with a surrogate": ({"a": ["x", "\ud800"]}, {}, r"lone surrogate U\+D800 at character 0"),
    "65 bits": ({"a": 2**64}, {}, "expected integers that fit i64 or u64, found 65 bits and no sign"),
    "65 bits below": ({"a": [-(2**63) - 1]}, {}, "found 64 bits and a sign"),
    "both ends": ({"a": [-1, 2**63]}, {}, "found 64 bits and a sign"),
    "float beyond f32": ({"a": 1e39}, {}, r"expected at most 3\.403e\+38, the largest float32, found 1e\+39"),
    "none": ({"a": None}, {}, "'a': expected a number, bool, str, list or NumPy array of these, found NoneType"),
    "dict": ({"a": {}}, {}, "found dict"),
    "complex": ({"a": np.zeros(2, complex)}, {}, "found ndarray"),
    "2-D array": ({"a": np.zeros((2, 2), np.float32)}, {}, "found ndarray"),
    "mixed": ({"a": [1, "b"]}, {}, "expected values of one type, found int and str"),
    "bool and int": ({"a": [True, 2]}, {}, "found bool and int"),
    "too deep": ({"a": [[[[["x"]]]]]}, {}, "expected at most 4 arrays in one another, found 5"),
    "no name": ({}, {"": ONE["w"]}, "expected a name of 1 to 63 bytes, found 0"),
    "long name": ({}, {"é" * 32: ONE["w"]}, "expected a name of 1 to 63 bytes, found 64"),
    "float64": ({}, {"w": np.ones(2)}, "'w': expected an array of float32 or float16, found float64"),
    "no array": ({}, {"w": [1.0]}, "found list"),
    "no dimension": ({}, {"w": np.float32(1).reshape(())}, "expected 1 to 4 dimensions, found 0"),
    "5 dimensions": ({}, {"w": np.ones((1,) * 5, np.float32)}, "expected 1 to 4 dimensions, found 5"),
    "no weights": ({}, {"w": np.ones((3, 0), np.float32)}, r"expected 1 to 2\^63 - 1 weights, found shape \(3, 0\)"),
    "negative": ({}, {"w": (np.zeros(36, np.uint8), q4, (-1, -64))}, r"found shape \(-1, -64\)"),
    "2^64 weights": ({}, {"w": (np.zeros(36, np.uint8), q4, (2**32, 2**32))}, r"2\^63 - 1 weights"),
    "half a block": ({}, {"w": (np.zeros(36, np.uint8), q4, (4, 16))}, "a multiple of 32, Q4_0's block, found 16"),
    "too few bytes": ({}, {"w": (np.zeros(35, np.uint8), q4, (2, 32))}, r"Q4_0 of shape \(2, 32\) takes 36 bytes, found 35"),
}


@pytest.mark.parametrize("metadata, tensors, message", HOSTILE.values(), ids=HOSTILE)
def test_what_the_format_cannot_hold_is_refused_before_anything_is_written(tmp_path, metadata, tensors, message):
    with pytest.raises(GGUFError, match=message):
        write_gguf(tmp_path / "a.gguf", ARCH | metadata, ONE | tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    path = tmp_path / "a.gguf"
    write_gguf(path, ARCH, ONE)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, broken, fail)
    with pytest.raises(GGUFError, match="a.gguf: cannot be written: No space left on device"):
        write_gguf(path, ARCH, {"w": np.zeros((9, 9), np.float32)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.gguf"]


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError, MemoryError])
def test_a_writer_that_is_stopped_leaves_the_old_file_and_nothing_else(tmp_path, reason):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(reason), files.replacing(tmp_path / "a") as file:
        file.write(b"new")
        raise reason
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_two_processes_may_write_one_shared_file(tmp_path, monkeypatch):
    """Each has a draft of its own: the file is whole all the time, and the one that ends last wins."""
    path, processes = tmp_path / "state.json", iter((71, 72))
    monkeypatch.setattr(files.os, "getpid", lambda: next(processes))
    with files.replacing(path, shared=True) as first:
        first.write(b"the first, which is long")
        with files.replacing(path, shared=True) as second:
            second.write(b"the second")
        assert path.read_bytes() == b"the second"
    assert path.read_bytes() == b"the first, which is long" and os.listdir(tmp_path) == ["state.json"]


def test_the_file_is_complete_when_it_appears(tmp_path, monkeypatch):
    """At the moment of the rename all bytes are in the draft, in the same folder, and nothing of it is under the name."""
    path, seen, real = tmp_path / "a.gguf", [], os.replace

    def replace(draft, target):
        seen.append((os.path.dirname(draft), path.exists(), os.path.getsize(draft)))
        real(draft, target)

    monkeypatch.setattr(files.os, "replace", replace)
    write_gguf(path, ARCH, ONE)
    assert seen == [(str(tmp_path), False, path.stat().st_size)]


def test_a_model_in_use_may_be_replaced(tmp_path):
    write_gguf(tmp_path / "a.gguf", ARCH, ONE)
    with open_gguf(tmp_path / "a.gguf") as old:
        write_gguf(tmp_path / "a.gguf", ARCH, {"w": np.zeros((2, 32), np.float32)})
        assert (old.dequantize("w") == 1).all()
    with open_gguf(tmp_path / "a.gguf") as new:
        assert (new.dequantize("w") == 0).all()


def test_places_where_no_file_can_be(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.gguf", tmp_path / "folder", tmp_path / ("n" * 300)):
        with pytest.raises(GGUFError, match="cannot be written: "):
            write_gguf(path, ARCH, ONE)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def tiny_model(path):
    """A model of random weights, half of them F16, with a tokenizer trained on one sentence."""
    metadata = train_bpe(["once upon a time there was a fox and a bear and another fox " * 3], 280)
    config = ModelConfig(
        n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=96, vocab_size=280, context_length=128, tied=True,
    )  # fmt: skip
    shapes = tensor_shapes(config)
    weights = {name: random_tensor(name, shape, 7) for name, shape in shapes.items()}
    weights = {name: array.astype(np.float16) if array.ndim > 1 else array for name, array in weights.items()}
    llama = {"block_count": 2, "embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2}
    llama |= {
        "context_length": 128,
        "feed_forward_length": 96,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": 16,
    }
    write_gguf(path, ARCH | {f"llama.{key}": value for key, value in llama.items()} | metadata, weights)
    return weights


def test_a_written_model_runs(tmp_path):
    weights = tiny_model(tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as file:
        assert all((file.dequantize(name) == array).all() for name, array in weights.items())
    llm = LLM(str(tmp_path / "m.gguf"))
    (output,) = llm.generate(["once upon a time"], SamplingParams(max_tokens=5, temperature=0))
    assert 1 <= len(output.token_ids) <= 5 and all(0 <= i < 280 for i in output.token_ids)
