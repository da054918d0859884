"""What a file may be besides whole and known: tensors of types that no table here has, and models split into several files."""

import hashlib
import json
import shutil
import struct
import sys
import tracemalloc
import types
from pathlib import Path

import gguf as oracle
import numpy as np
import pytest
from fuzz_gguf import MEGABYTES, SECONDS, fuzz
from gguf_bytes import Q4_0, build, entry, string, tensor, u32
from gguf_files import METADATA, TYPES, llama_split_file, split_file, write_specimen

from minillm import LLM, SamplingParams
from minillm.errors import GGUFError, ModelError
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_split import named_parts
from minillm.formats.requantize import requantize
from minillm.model import zoo
from minillm.model.adapter_files import load_adapter
from minillm.model.load import stored_bytes
from minillm.speculative.eagle import load_eagle

HERE = Path(__file__).parent
TINY = HERE.parent / "data" / "models" / "tiny.gguf"
SPLIT = json.loads((HERE / "golden" / "split.json").read_text())["parts"]

# --- types that are in no table -------------------------------------------------------------------------------------------

UNKNOWN = [4, 31, 57, 2**32 - 1]  # two that ggml had and dropped, one to come, and the last that fits


def odd_file(path, kind=57, dims=(33, 5), offset=128, data=416, more=()):
    """Three tensors: a (F32) at 0, odd at 128, b (Q4_0) at 320; 416 bytes of data, if nothing else is said."""
    tensors = [tensor("a"), tensor("odd", dims, kind, offset), tensor("b", (32, 3), Q4_0, 320), *more]
    path.write_bytes(build([entry("general.architecture", 8, string("llama"))], tensors, data))
    return path


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_tensor_of_an_unknown_type_has_the_bytes_up_to_the_next(tmp_path, kind):
    with open_gguf(odd_file(tmp_path / "a.gguf", kind)) as file:
        odd, b = file.tensors["odd"], file.tensors["b"]
        assert (odd.type.name, odd.shape, odd.nbytes) == (f"unknown {kind}", (5, 33), 192) and not odd.type.known
        assert odd.offset + odd.nbytes == b.offset and len(file.raw("odd")) == 192
        assert file.dequantize("a").tolist() == [0] * 32 and file.dequantize("b").shape == (3, 32)
        with pytest.raises(GGUFError, match=f"tensor 'odd': weights of type unknown {kind} are not decoded"):
            file.dequantize("odd")


def test_the_last_of_an_unknown_type_has_the_bytes_up_to_the_end(tmp_path):
    path = odd_file(tmp_path / "a.gguf", more=[tensor("last", (7,), 99, 384)], data=391)
    with open_gguf(path) as file:
        assert file.tensors["last"].nbytes == 7 and file.tensors["last"].offset + 7 == path.stat().st_size


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"offset": 130}, "tensor 'odd': offset: expected a multiple of 32, the alignment, found 130"),
        ({"offset": 96}, "tensor 'odd': offset: expected tensors that do not overlap, found 96, where 'a' still has 32"),
        ({"offset": 320}, "where 'odd' still has 1 bytes"),
        ({"offset": 2**63}, "tensor 'odd' claims 1 bytes at offset .* but the file ends at"),
        ({"offset": 416}, "tensor 'odd' claims 1 bytes at offset .* but the file ends at"),
        ({"dims": (33, 0)}, "tensor 'odd': dimensions: expected a product"),
        ({"dims": (2**32, 2**32)}, "tensor 'odd': dimensions: expected a product"),
    ],
)
def test_all_else_about_it_is_checked_as_before(tmp_path, change, says):
    with pytest.raises(GGUFError, match=says):
        open_gguf(odd_file(tmp_path / "a.gguf", **change))


def test_whatever_it_claims_nothing_is_allocated_for_it(tmp_path):
    path = odd_file(tmp_path / "a.gguf", dims=(2**31, 2**31))
    tracemalloc.start()
    with open_gguf(path) as file:
        assert file.tensors["odd"].size == 2**62
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def with_type(path, name, kind):
    """Change the type of a tensor where it is written."""
    data, at = bytearray(path.read_bytes()), path.read_bytes().index(string(name)) + len(string(name))
    (dims,) = struct.unpack_from("<I", data, at)
    at += 4 + 8 * dims
    data[at : at + 4] = u32(kind)
    path.unlink()
    path.write_bytes(data)
    return path


def test_a_model_that_uses_one_is_refused_by_the_names_of_both(tmp_path, tiny, tiny_path):
    path = with_type(shutil.copy(tiny_path, tmp_path / "m.gguf"), "blk.1.attn_k.weight", 57)
    with pytest.raises(ModelError, match=f"^{path}: tensor 'blk.1.attn_k.weight' is of type unknown 57; supported are F32"):
        LLM(path)
    models, name = zoo.embedded_folder(), "blk.0.attn_q.weight.lora_a"
    adapter = with_type(shutil.copy(models / "moral.gguf", tmp_path / "moral.gguf"), name, 57)
    with pytest.raises(ModelError, match=f"tensor '{name}' is of type unknown 57"):
        load_adapter(adapter, LLM("tiny").config)
    eagle = with_type(shutil.copy(models / "eagle.gguf", tmp_path / "eagle.gguf"), "fc.weight", 57)
    target = types.SimpleNamespace(config=types.SimpleNamespace(name="smollm2 135M"))
    with pytest.raises(ModelError, match="tensor 'fc.weight' is of type unknown 57"):
        load_eagle(eagle, target)


# --- models in several files -----------------------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path, tiny_path):
    """The small model, whole and in parts of seven tensors."""
    return split_file(tiny_path, tmp_path / "m", 7)


def test_any_part_opens_the_whole_model(parts, tiny_path, tiny):
    assert [p.name for p in parts] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    with open_gguf(tiny_path) as whole:
        expected = {name: whole.raw(name).tobytes() for name in whole.tensors}
        metadata = whole.metadata
    for path in parts:
        with open_gguf(path) as file:
            assert list(file.tensors) == list(expected) and [p.path for p in file.parts] == parts
            assert {name: file.raw(name).tobytes() for name in file.tensors} == expected
            assert list(file.metadata) == list(metadata), "the first part's, without split.*"
            assert file.nbytes == sum(p.stat().st_size for p in parts) == stored_bytes(path)
        again = LLM(path)
        assert again.generate(["ab"])[0].token_ids == tiny.generate(["ab"])[0].token_ids


@pytest.mark.parametrize(("types", "max_tensors", "small_first"), [(TYPES, 1, False), (TYPES, 5, True), (TYPES[:2], 1, True)])
def test_every_tensor_is_where_the_gguf_package_finds_it(tmp_path, types, max_tensors, small_first):
    path = write_specimen(tmp_path / "a.gguf", types)
    parts = split_file(path, tmp_path / "s", max_tensors, small_first)
    readers = [oracle.GGUFReader(p) for p in parts]
    assert not small_first or not readers[0].tensors
    with open_gguf(parts[-1]) as file:
        assert {t.name for r in readers for t in r.tensors} == set(file.tensors)
        for i, reader in enumerate(readers):
            for t in reader.tensors:
                info = file.tensors[t.name]
                assert (info.part, info.offset, info.nbytes) == (i, t.data_offset, t.n_bytes)
                assert file.raw(t.name).tobytes() == t.data.tobytes()
        assert set(file.metadata) == {"general.architecture", *(key for key, *_ in METADATA)}


@pytest.mark.parametrize("max_tensors", SPLIT)
def test_what_llama_cpps_own_tool_splits_opens_and_says_the_same(tmp_path, max_tensors):
    """Its bytes, by their hash, and then the model in them."""
    parts = llama_split_file(TINY, tmp_path / "tiny", int(max_tensors))
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in parts} == SPLIT[max_tensors]
    with open_gguf(TINY) as whole, open_gguf(parts[-1]) as file:
        said = {key: value for key, value in file.verbatim().items() if not key.startswith("split.")}  # a single part's stay
        assert list(file.tensors) == list(whole.tensors) and said == whole.verbatim()
        assert all(file.raw(name).tobytes() == whole.raw(name).tobytes() for name in whole.tensors)
    greedy = SamplingParams(max_tokens=16, temperature=0)
    found, expected = (LLM(path, backend="numpy").generate(["Once upon a time"], greedy)[0] for path in (parts[0], TINY))
    assert found.token_ids == expected.token_ids


def test_a_split_model_is_requantized_as_if_it_were_whole(parts, tiny_path, tmp_path):
    written = []
    for path in (tiny_path, parts[2]):
        with open_gguf(path) as file:
            requantize(file, tmp_path / "out.gguf", "q8_0")
            written.append((file.verbatim(), (tmp_path / "out.gguf").read_bytes()))
    assert written[0] == written[1], "metadata as they stand, or the bytes that were written, differ"


def test_parts_are_mapped_where_they_lie(parts):
    with open_gguf(parts[0]) as file:
        raw = [file.raw(name) for name in file.tensors]
        assert not any(r.flags.owndata or r.flags.writeable for r in raw)
        file.release_pages()
        assert np.shares_memory(raw[-1], file.raw(list(file.tensors)[-1]))
    with pytest.raises(ValueError, match="closed"):
        file.raw("output_norm.weight")


def part(number=0, count=2, total=2, tensors=(), entries=(), keys=("no", "count", "tensors.count"), align=32):
    """Bytes of a part; values may be any u32, or a string."""
    values = dict(zip(("no", "count", "tensors.count"), (number, count, total), strict=True))
    said = [entry(f"split.{k}", 8, string(values[k])) if isinstance(values[k], str) else entry(f"split.{k}", 4, u32(values[k]))
            for k in keys]  # fmt: skip
    return build([*entries, *said], tensors, data=128, align=align)


ARCH, OTHER = (entry("general.architecture", 8, string(name)) for name in ("llama", "qwen2"))
A, B = [tensor("a")], [tensor("b")]
FIRST, SECOND = part(0, tensors=A, entries=[ARCH]), part(1, tensors=B)
WRONG = {  # bytes of the two parts (None: not there) -> what is said
    "missing": (FIRST, None, r"s-00002-of-00002.gguf: expected the 2 parts of a model in one folder, this one is not there"),
    "first missing": (None, SECOND, r"s-00001-of-00002.gguf: expected the 2 parts"),
    "a tensor twice": (FIRST, part(1, tensors=A), "'a': expected each tensor once, it is in s-00001-of-00002.gguf"),
    "too few tensors": (FIRST, part(1), "00001-of-00002.gguf: .*split.tensors.count: expected 2 tensors in 2 parts, found 1"),
    "another count": (FIRST, part(1, 3, tensors=B), r"00002-of-00002.gguf: metadata 'split.count': expected what s-00001"),
    "another total": (FIRST, part(1, 2, 3, tensors=B), "00002-of-00002.gguf: .*'split.tensors.count': expected what s-00001"),
    "another model": (FIRST, part(1, tensors=B, entries=[OTHER]), "metadata 'general.architecture': .* parts of two models"),
    "the same part twice": (FIRST, FIRST, r"00002-of-00002.gguf: metadata split.no: expected 1, as its name says, found 0"),
    "no such part": (part(2, tensors=A), SECOND, "split.no: expected a whole number from 0 to 1, found 2"),
    "no number": (part(keys=("count",)), SECOND, "split.no: expected a whole number from 0 to 1, found nothing"),
    "no total": (part(tensors=A, keys=("no", "count")), SECOND, "split.tensors.count: .* found nothing"),
    "text": (part(0, "2"), SECOND, "split.count: expected a whole number from 0 to 65,535, found '2'"),
    "a lie": (part(0, 2**31), SECOND, "split.count: expected a whole number from 0 to 65,535, found 2,147,483,648"),
    "named otherwise": (part(0, 3, tensors=A), SECOND, "part 1 of 3: expected a name like …-00001-of-00003.gguf"),
    "no file": (FIRST, b"GGML" + bytes(40), r"00002-of-00002.gguf: offset 0: magic"),
    "cut": (FIRST, SECOND[:-1], r"00002-of-00002.gguf: tensor 'b' claims 128 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_parts_that_do_not_belong_together_are_named(tmp_path, name):
    first, second, says = WRONG[name]
    paths = named_parts(tmp_path / "s-00001-of-00002.gguf")
    for path, data in zip(paths, (first, second), strict=True):
        if data is not None:
            path.write_bytes(data)
    with pytest.raises(GGUFError, match=says) as error:
        open_gguf(paths[0] if first else paths[1])
    assert "\n" not in str(error.value) and str(error.value).startswith(str(tmp_path))


def test_a_folder_may_stand_in_the_way(tmp_path):
    paths = named_parts(tmp_path / "s-00001-of-00002.gguf")
    paths[0].write_bytes(FIRST)
    paths[1].mkdir()
    with pytest.raises(GGUFError, match="00002.gguf: expected a GGUF file, found a directory"):
        open_gguf(paths[0])


def test_each_part_has_its_own_alignment(tmp_path):
    paths = named_parts(tmp_path / "s-00001-of-00002.gguf")
    for number, (path, tensors, align) in enumerate(zip(paths, (A, B), (64, 4096), strict=True)):
        path.write_bytes(part(number, tensors=tensors, entries=[ARCH, entry("general.alignment", 4, u32(align))], align=align))
    with open_gguf(paths[0]) as file:
        assert file.tensors["b"].offset == 4096 and [p.alignment for p in file.parts] == [64, 4096]
        assert file.dequantize("b").tolist() == [0] * 32


def test_a_renamed_part_is_told_which_name_it_needs(parts, tmp_path):
    renamed = parts[1].rename(tmp_path / "other.gguf")
    with pytest.raises(GGUFError, match="other.gguf: part 2 of 3: expected a name like …-00002-of-00003.gguf"):
        open_gguf(renamed)
    exchanged = parts[2].rename(parts[1])
    with pytest.raises(GGUFError, match="m-00002-of-00003.gguf: part 3 of 3: expected a name like …-00003-of-00003.gguf"):
        open_gguf(exchanged)


@pytest.mark.parametrize(("count", "kind"), [(0, 4), (1, 4), (1, 2)])
def test_a_file_of_one_part_is_a_file(tmp_path, count, kind):
    path = tmp_path / "any name.gguf"
    path.write_bytes(build([ARCH, entry("split.count", kind, count.to_bytes(4 if kind == 4 else 2, "little"))], A))
    with open_gguf(path) as file:
        assert list(file.tensors) == ["a"] and len(file.parts) == 1


NAMES = ["m.gguf", "m-00001-of-00002.bin", "m-1-of-2.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf"]


@pytest.mark.parametrize("name", NAMES)
def test_only_such_names_are_names_of_parts(tmp_path, name):
    assert named_parts(tmp_path / name) == [tmp_path / name]


def test_the_hub_is_asked_for_all_parts(monkeypatch, tmp_path):
    here, hub = {}, types.ModuleType("huggingface_hub")
    hub.try_to_load_from_cache = lambda repo, file: here.get(file)
    hub.hf_hub_download = lambda repo, file: here.setdefault(file, str(tmp_path / file))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    name = "hf:org/repo/q4/m-00002-of-00003.gguf"
    assert zoo.download(name, progress=True) == tmp_path / "q4/m-00002-of-00003.gguf" == zoo.resolve(name)
    assert set(here) == {f"q4/m-0000{i}-of-00003.gguf" for i in (1, 2, 3)}
    del here["q4/m-00003-of-00003.gguf"]
    with pytest.raises(zoo.ModelNotDownloaded):
        zoo.resolve(name)


# --- files that we wrote, changed at random -------------------------------------------------------------------------------


def check_fuzz(cases, seed):
    report = fuzz(cases, seed)
    assert not report.crashes, report.crashes[0]
    assert report.megabytes < MEGABYTES, f"{report.megabytes:.0f} MB"
    assert report.seconds < SECONDS or cases < 10_000, f"{report.seconds:.2f} s"  # the slow run has the machine for itself
    assert report.loaded > cases / 10, f"{report.loaded:,} of {cases:,} load: was anything behind the first check reached?"
    assert len(report.said) > 100, f"only {len(report.said)} different messages: do the changes reach the structure?"


def test_changed_files_of_ours_load_or_are_refused():
    check_fuzz(1200, seed=1)


@pytest.mark.slow
def test_twenty_thousand_changed_files_of_ours_load_or_are_refused():
    check_fuzz(20_000, seed=0)


def test_the_fuzz_sees_what_is_no_error_of_ours(monkeypatch):
    from minillm.formats import gguf_read

    large = [30_000_000]

    def planted(nbytes, alignment):
        np.ones(large.pop() if large else 1)
        return {}["missing"]

    monkeypatch.setattr(gguf_read, "padded", planted)
    report = fuzz(30)
    assert "KeyError" in report.crashes[0] and 235 < report.megabytes < 260 and report.seconds > 0
