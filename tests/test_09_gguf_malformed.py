"""A GGUF file from a stranger either loads or is refused in one line: no crash, no hang, no memory beyond the file's worth.

Two ways: one file per malformation, built byte by byte, whose message must name offset, field, expected and found; and
thousands of mutations of small files that hold every metadata type and every tensor type.
"""

import os
import tracemalloc

import numpy as np
import pytest
from gguf_bytes import ARRAY, BOOL, Q4_0, STRING, U8, U32, aligned, array, build, entry, string, tensor, u32, u64
from gguf_files import TYPES, write_specimen
from gguf_mutations import fields_of, mutate
from watchdog import watchdog

from minillm.cli import main
from minillm.errors import GGUFError
from minillm.formats.gguf import open_gguf

# One malformation at a time.

NESTED = b"".join(u32(ARRAY) + u64(1) for _ in range(5000)) + u32(U8) + u64(1) + b"\0"
MALFORMED = {  # name: (file, offset of the field, words that the message must hold)
    "magic": (build(magic=b"GGML"), 0, ["magic", "expected b'GGUF'", "found b'GGML'"]),
    "short": (b"GGUF\3", 4, ["header", "expected 24 bytes", "found 5"]),
    "three_bytes": (b"GGU", 0, ["magic", "found b'GGU'"]),
    "version_1": (build(version=1), 4, ["version", "expected 2 or 3", "found 1"]),
    "version_4": (build(version=4), 4, ["version", "expected 2 or 3", "found 4"]),
    "version_0": (build(version=0), 4, ["version", "found 0"]),
    "big_endian": (build(version=3 << 24), 4, ["version", "big-endian"]),
    "tensor_count": (build(n_tensors=1 << 60), 8, ["tensor count", "at most 4", "found 1,152,921,504,606,846,976"]),
    "metadata_count": (build(n_entries=2**64 - 1), 16, ["metadata count", "at most 10", "found 18,446,744,073,709,551,615"]),
    "key_length": (build([u64(1 << 40) + b"k"]), 24, ["key 1 of 1", "length", "found 1,099,511,627,776"]),
    "key_not_utf8": (build([entry(b"ab\xff", U8, b"\0")]), 34, ["key 1 of 1", "UTF-8", "0xff"]),
    "value_not_utf8": (build([entry("k", STRING, string(b"\xc3("))]), 45, ["'k'", "UTF-8", "0xc3"]),
    "token_not_utf8": (build([array(STRING, 2, string("a") + string(b"\xed\xa0\x80"))]), 66, ["'k'", "0xed"]),
    "key_twice": (build([entry("k", U8, b"\0")] * 2), 38, ["'k'", "each key once", "second"]),
    "value_type": (build([entry("k", 13, b"\0")]), 33, ["'k'", "type", "expected 0 to 12", "found 13"]),
    "bool": (build([entry("k", BOOL, b"\2")]), 37, ["'k'", "expected 0 or 1", "found 2"]),
    "bool_in_array": (build([array(BOOL, 3, b"\0\1\7")]), 51, ["'k'", "expected 0 or 1", "found 7"]),
    "element_type": (build([array(99, 0)]), 37, ["'k'", "element", "found 99"]),
    "array_count": (build([array(U32, 1 << 62)]), 41, ["'k'", "count", "at most", "4,611,686,018,427,387,904"]),
    "array_of_strings_count": (build([array(STRING, 1000)]), 41, ["'k'", "count", "found 1,000"]),
    "array_of_arrays_count": (build([array(ARRAY, 1000)]), 41, ["'k'", "count", "found 1,000"]),
    "array_depth": (build([entry("k", ARRAY, NESTED)]), 85, ["'k'", "at most 4 arrays in one another", "found 5"]),
    "string_in_array": (build([array(STRING, 1, u64(1 << 63))]), 49, ["'k'", "length", "found 9,223"]),
    "alignment_3": (build([aligned(U32, u32(3))]), 53, ["'general.alignment'", "power of two", "found 3"]),
    "alignment_0": (build([aligned(U32, u32(0))]), 53, ["'general.alignment'", "power of two", "found 0"]),
    "alignment_type": (build([aligned(STRING, string("32"))]), 53, ["'general.alignment'", "u32", "of type 8"]),
    "tensor_twice": (build(tensors=[tensor(), tensor(offset=128)], data=256), 57, ["'w'", "each name once"]),
    "name_not_utf8": (build(tensors=[tensor(b"\x80")]), 32, ["name of tensor 1 of 1", "UTF-8", "0x80"]),
    "name_length": (build(tensors=[u64(999) + bytes(40)]), 24, ["name of tensor 1 of 1", "length", "found 999"]),
    "no_dimension": (build(tensors=[tensor(dims=())]), 33, ["'w'", "number of dimensions", "expected 1 to 4", "found 0"]),
    "five_dimensions": (build(tensors=[tensor(dims=(1,) * 5)]), 33, ["number of dimensions", "expected 1 to 4", "found 5"]),
    "many_dimensions": (build(tensors=[tensor(n_dims=2**32 - 1)]), 33, ["'w'", "expected 1 to 4", "found 4,294,967,295"]),
    "dimension_0": (build(tensors=[tensor(dims=(32, 0))]), 37, ["'w'", "dimensions", "found 0 x 32"]),
    "overflow": (build(tensors=[tensor(dims=(1 << 32, 1 << 32))]), 37, ["'w'", "2^63", "4,294,967,296 x 4,294,967,296"]),
    "part_of_a_block": (build(tensors=[tensor(dims=(48,), type=Q4_0)]), 37, ["'w'", "multiple of 32", "Q4_0", "found 48"]),
    "offset_unaligned": (build(tensors=[tensor(offset=16)], data=256), 49, ["'w'", "offset", "multiple of 32", "found 16"]),
    "overlap": (build(tensors=[tensor("a"), tensor("b", offset=96)], data=256), 82, ["'b'", "overlap", "'a' still has 32 bytes"]),
    "past_the_end": (build(tensors=[tensor(offset=32)]), 96, ["'w' claims 128 bytes at offset 96", "ends at 192", "truncated"]),
    "offset_past_2_64": (build(tensors=[tensor(offset=2**64 - 32)]), 2**64 + 32, ["'w' claims 128 bytes", "ends at 192"]),
    "cut_in_the_data": (build(tensors=[tensor()])[:-1], 64, ["'w' claims 128 bytes", "ends at 191", "truncated"]),
    "cut_in_a_value": (build([entry("k", U32, b"")], data=0, align=1), 37, ["'k'", "expected 4 bytes", "found 0", "truncated"]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_each_malformation_is_named_with_its_place(tmp_path, name):
    data, offset, words = MALFORMED[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(GGUFError) as error:
        open_gguf(path)
    message = str(error.value)
    missing = [word for word in (str(path), f"offset {offset:,}", *words) if word not in message]
    assert not missing, f"{message!r} does not say {missing}"
    assert "\n" not in message and len(message) < len(str(path)) + 400, message


def test_the_well_formed_file_that_those_are_made_from_loads(tmp_path):
    path = tmp_path / "a.gguf"
    nested = u32(ARRAY) + u64(1) + u32(ARRAY) + u64(1) + u32(ARRAY) + u64(1) + u32(U8) + u64(2) + b"\1\2"
    entries = [entry("k", ARRAY, nested), entry("b", ARRAY, u32(BOOL) + u64(2) + b"\0\1"), aligned(U32, u32(64))]
    path.write_bytes(build(entries, [tensor("b", offset=128, type=Q4_0), tensor("a")], data=192, align=64))
    with open_gguf(path) as file:
        assert file.metadata["k"][0][0][0].tolist() == [1, 2] and file.metadata["b"].tolist() == [False, True]
        assert file.dequantize("a").tolist() == [0] * 32 and file.dequantize("b").shape == (32,)


@pytest.mark.parametrize("names, word", [(("w\nx",), r"\\n"), (("w" * 5000,), r"www\.\.\.'")], ids=["newline", "long"])
def test_a_name_from_the_file_cannot_break_the_line(tmp_path, names, word):
    path = tmp_path / "a.gguf"
    path.write_bytes(build(tensors=[tensor(name, offset=1) for name in names]))
    with pytest.raises(GGUFError, match=word) as error:
        open_gguf(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(path)) + 400


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "pipe", "below_a_file"])
def test_what_is_no_file_is_refused_in_one_line_with_status_2(tmp_path, capsys, kind):
    path = tmp_path / "a.gguf"
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no named pipes")
        os.mkfifo(path)
    elif kind == "below_a_file":
        path.touch()
        path = path / "b.gguf"
    with watchdog(5, kind):
        assert main(["inspect", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"minillm: {path}: ") and said.err.count("\n") == 1, said.err


def test_metadata_of_the_wrong_kind_and_a_tensor_that_is_not_there_are_named(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(build([entry("general.architecture", U8, b"\1")], [tensor()]))
    with open_gguf(path) as file:
        with pytest.raises(GGUFError, match="general.architecture.*expected a string, found .*int"):
            file.architecture  # noqa: B018
        with pytest.raises(GGUFError, match="no tensor 'x'"):
            file.dequantize("x")


def test_what_is_allocated_is_in_proportion_to_the_file(tmp_path):
    """The costliest things per byte of a file: empty strings, empty arrays, arrays of one number."""
    empty, one = u32(U8) + u64(0), u32(U8) + u64(1) + b"\0"
    count = 30_000
    for name, element, item in (("strings", STRING, u64(0)), ("empty arrays", ARRAY, empty), ("arrays of one", ARRAY, one)):
        path = tmp_path / name
        path.write_bytes(build([array(element, count, item * count)]))
        tracemalloc.start()
        file = open_gguf(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(file.metadata["k"]) == count
        assert peak < 20 * path.stat().st_size, f"{name}: {peak:,} bytes for a file of {path.stat().st_size:,}"


# Mutations

CASES = int(os.environ.get("MINILLM_GGUF_MUTATIONS", 2000))
MEMORY_LIMIT = 200_000_000  # bytes, each
TIME_LIMIT = 1  # second, each: a guard against a hang; a case takes about a millisecond
@pytest.fixture(scope="module")
def specimens(tmp_path_factory):
    """Small files: one with all tensor types, one with few and a large alignment, one that is metadata only."""
    folder = tmp_path_factory.mktemp("specimens")
    all_types = write_specimen(folder / "a.gguf")
    few = write_specimen(folder / "b.gguf", ["F32", "Q4_1", "Q6_K"], seed=1, alignment=256)
    return [(path.read_bytes(), fields_of(path)) for path in (all_types, few, write_specimen(folder / "c.gguf", []))]


@pytest.mark.parametrize(("seed", "cases"), [(20240901, CASES), pytest.param(1, 5 * CASES, marks=pytest.mark.slow)])
def test_mutated_files_load_or_are_refused(specimens, tmp_path, seed, cases):
    rng = np.random.Generator(np.random.PCG64(seed))
    path = tmp_path / "mutated.gguf"
    loaded = refused = 0
    messages = set()
    tracemalloc.start()
    try:
        for case in range(cases):
            data, fields = specimens[case % len(specimens)]
            data = mutate(data, fields, rng)
            path.unlink(missing_ok=True)  # a mapping of the case before keeps the old file
            path.write_bytes(data)
            tracemalloc.reset_peak()
            with watchdog(TIME_LIMIT, f"case {case}"):
                try:
                    with open_gguf(path) as file:
                        for name, info in file.tensors.items():
                            assert file.dequantize(name).shape == info.shape
                    loaded += 1
                except GGUFError as error:
                    refused += 1
                    message = str(error)
                    assert message.startswith(f"{path}: ") and "\n" not in message, message
                    assert len(message) < len(str(path)) + 500, message
                    messages.add("".join(c for c in message.split(":", 2)[-1] if not c.isdigit())[:60])
                except Exception as error:
                    pytest.fail(f"case {case}: {type(error).__name__}: {error}")
            peak = tracemalloc.get_traced_memory()[1]
            assert peak < MEMORY_LIMIT, f"case {case}: {peak:,} bytes"
    finally:
        tracemalloc.stop()
    assert loaded > cases / 20, f"only {loaded:,} of {cases:,} loaded: are the mutations too coarse to get past the header?"
    assert refused > cases / 3, f"only {refused:,} of {cases:,} were refused: do the mutations reach the structure?"
    assert len(messages) > 20 or cases < 1000, f"only {len(messages)} kinds of refusal: {sorted(messages)}"


def test_every_tensor_type_is_among_the_mutated(specimens, tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(specimens[0][0])
    with open_gguf(path) as file:
        assert {t.type.name for t in file.tensors.values()} == set(TYPES)
