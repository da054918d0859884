"""GGUF reader and block types against the gguf package: same values, same bits, on made and on real files."""

import json
import subprocess
import sys
import tracemalloc

import gguf
import numpy as np
import pytest
from gguf_files import ARRAY, HALVES, METADATA, TYPES, random_blocks, stored, write_gguf, write_specimen
from our_blocks import OURS, UNPACKED, number_of, sizes

from minillm.cli import main
from minillm.formats.blocks import BLOCK_TYPES, dequantize
from minillm.formats.gguf import open_gguf


def oracle(raw, type, shape):
    """The gguf package's float32, from bytes."""
    with np.errstate(all="ignore"):
        values = gguf.quants.dequantize(np.array(raw).reshape(*shape[:-1], -1), gguf.GGMLQuantizationType[type])
    return values.reshape(shape)


def check_bits(found, expected, what):
    """Equal bit for bit, but for the payload of a NaN."""
    assert found.dtype == np.float32 and found.shape == expected.shape, f"{what}: {found.dtype} {found.shape}"
    differ = (found.view(np.uint32) != expected.view(np.uint32)) & ~(np.isnan(found) & np.isnan(expected))
    if differ.any():
        at = tuple(int(i) for i in np.argwhere(differ)[0])
        first = f"first at {at}: {found[at]!r}, expected {expected[at]!r}"
        pytest.fail(f"{what}: {differ.sum():,} of {differ.size:,} differ, {first}")


# Block types


def test_the_table_of_types_has_the_sizes_and_numbers_of_ggml():
    assert set(BLOCK_TYPES) >= set(TYPES)
    for name, t in BLOCK_TYPES.items():
        if name in (*OURS, *UNPACKED):
            assert (t.id, t.weights, t.bytes) == (number_of(name), *sizes(name)[:2]), name
            continue
        number = gguf.GGMLQuantizationType[name]
        assert (t.id, t.weights, t.bytes) == (number, *gguf.GGML_QUANT_SIZES[number]), name
    bits = [BLOCK_TYPES[name].bits_per_weight for name in TYPES]
    assert bits == [32, 16, 16, 4.5, 5, 5.5, 6, 8.5, 2.625, 3.4375, 4.5, 5.5, 6.5625]


@pytest.mark.parametrize("shape", [(1, 256), (3, 512), (1030, 256), (2, 3, 256), (256,)])
@pytest.mark.parametrize("finite", [True, False], ids=["finite", "any_bytes"])
@pytest.mark.parametrize("type", TYPES)
def test_random_blocks_decode_to_the_same_bits(type, finite, shape):
    raw = random_blocks(type, shape, np.random.default_rng([len(shape), shape[0], finite]), finite)
    check_bits(dequantize(raw.reshape(-1), BLOCK_TYPES[type], shape), oracle(raw, type, shape), f"{type} {shape}")


@pytest.mark.parametrize("type", ["F16", "BF16"])
def test_every_16_bit_number_decodes_to_the_same_bits(type):
    raw = np.arange(65536, dtype="<u2").view(np.uint8)
    check_bits(dequantize(raw, BLOCK_TYPES[type], (256, 256)), oracle(raw, type, (256, 256)), type)


@pytest.mark.parametrize("type", [t for t in TYPES if t not in ("F32", "F16", "BF16")])
@pytest.mark.parametrize("scale", [0x0000, 0x8000, 0x0001, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0x7D01], ids=hex)
def test_scales_at_the_edges_of_float16_decode_to_the_same_bits(type, scale):
    """Zero, minus zero, the smallest, the largest, both infinities, a quiet and a signalling NaN."""
    raw = random_blocks(type, (4, 256), np.random.default_rng(scale)).reshape(-1, BLOCK_TYPES[type].bytes)
    for at in HALVES[type]:
        raw[:, at : at + 2] = np.array([scale], "<u2").view(np.uint8)
    check_bits(dequantize(raw.reshape(-1), BLOCK_TYPES[type], (4, 256)), oracle(raw, type, (4, 256)), f"{type} {scale:#x}")


@pytest.mark.parametrize("type", TYPES)
def test_out_may_be_rows_of_a_larger_matrix(type):
    raw = random_blocks(type, (3, 512), np.random.default_rng(1))
    big = np.full((7, 512), 7.0, np.float32)
    dequantize(raw.reshape(-1), BLOCK_TYPES[type], (3, 512), out=big[2:5])
    check_bits(big[2:5], oracle(raw, type, (3, 512)), type)
    assert (big[:2] == 7).all() and (big[5:] == 7).all(), "rows outside of out were written"


@pytest.mark.parametrize("type", TYPES)
def test_decoding_needs_little_memory_beyond_its_result(type):
    shape = (4096, 1024)
    raw = random_blocks(type, shape, np.random.default_rng(2)).reshape(-1)
    out = np.empty(shape, np.float32)
    tracemalloc.start()
    dequantize(raw, BLOCK_TYPES[type], shape, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < out.nbytes / 8, f"{type}: {peak:,} bytes of temporaries for a result of {out.nbytes:,}"


# The file


def test_every_metadata_type_is_read(tmp_path):
    with open_gguf(write_specimen(tmp_path / "a.gguf")) as file:
        metadata = file.metadata
    assert list(metadata) == ["general.architecture", *(key for key, *_ in METADATA)]
    for key, expected, type, element in METADATA:
        found = metadata[key]
        if type == ARRAY and element not in (ARRAY, gguf.GGUFValueType.STRING):
            assert found.dtype == gguf.GGUFReader.gguf_scalar_to_np[element] and found.tolist() == expected, key
        elif key == "t.array.nested":
            assert [row.tolist() for row in found] == expected
        else:
            assert found == expected and type_of(found) == type_of(expected), key


def type_of(value):
    return [type(v) for v in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_tensors_are_where_the_gguf_package_finds_them(tmp_path, version, alignment):
    path = write_specimen(tmp_path / "a.gguf", alignment=alignment)
    data = bytearray(path.read_bytes())
    data[4:8] = version.to_bytes(4, "little")  # the layouts of 2 and 3 are the same
    path.write_bytes(data)
    reader = gguf.GGUFReader(path)
    with open_gguf(str(path)) as file:
        assert (file.version, file.architecture, file.alignment) == (version, "llama", alignment or 32)
        assert list(file.tensors) == [t.name for t in reader.tensors]
        for t in reader.tensors:
            info = file.tensors[t.name]
            assert info.shape == tuple(t.shape.tolist()[::-1]), t.name
            assert (info.type.name, info.offset, info.nbytes) == (t.tensor_type.name, t.data_offset, t.n_bytes), t.name
            raw = file.raw(t.name)
            assert raw.tobytes() == t.data.tobytes()
            check_bits(file.dequantize(t.name), oracle(raw, info.type.name, info.shape), t.name)


def test_raw_is_a_view_of_the_file_that_outlives_it(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", [("w", np.arange(64, dtype=np.uint8), "F32")])
    with open_gguf(path) as file:
        raw = file.raw("w")
        assert not raw.flags.owndata and not raw.flags.writeable, "expected a read-only view, no copy"
        assert np.shares_memory(raw, file.raw("w"))
    assert raw.tolist() == list(range(64))
    with pytest.raises(ValueError, match="closed"):
        file.raw("w")


def test_a_file_without_tensors_is_a_file(tmp_path):
    with open_gguf(write_gguf(tmp_path / "a.gguf", metadata=METADATA[:1])) as file:
        assert file.tensors == {} and file.metadata == {"general.architecture": "llama", "t.u8": 255}


def test_the_reader_needs_numpy_alone():
    code = "import sys, minillm.formats.gguf; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"numba", "matplotlib", "cupy", "regex", "jinja2", "tqdm", "gguf"}, loaded


@pytest.mark.model
def test_the_real_file_is_what_the_gguf_package_says(smollm2_path):
    reader = gguf.GGUFReader(smollm2_path)
    with open_gguf(smollm2_path) as file:
        assert list(file.metadata) == [key for key in reader.fields if not key.startswith("GGUF.")]
        for key, value in file.metadata.items():
            expected = reader.fields[key].contents()
            found = value.tolist() if isinstance(value, np.ndarray) else value
            assert found == expected, key
        assert len(file.tensors) == len(reader.tensors) == 272
        seen = set()
        for t in reader.tensors:
            assert file.raw(t.name).tobytes() == t.data.tobytes(), t.name
            if t.tensor_type not in seen:
                seen.add(t.tensor_type)
                check_bits(file.dequantize(t.name), gguf.quants.dequantize(t.data, t.tensor_type), t.name)
        assert {t.name for t in seen} == {"F32", "Q4_1", "Q8_0"}


@pytest.mark.model
@pytest.mark.parametrize("type", TYPES)
def test_a_real_tensor_stored_as_each_type_decodes_to_the_same_bits(smollm2_path, type):
    """The first rows of the embedding, requantized; for k-quants, which the gguf package cannot write, its bytes as they are."""
    with open_gguf(smollm2_path) as file:
        weights = file.dequantize("token_embd.weight")[:64, :512]
        raw = stored(weights, type, np.random.default_rng(3))
    check_bits(dequantize(raw.reshape(-1), BLOCK_TYPES[type], weights.shape), oracle(raw, type, weights.shape), type)


# The command


def test_inspect_counts_what_is_in_the_file(tmp_path, capsys):
    path = write_specimen(tmp_path / "a.gguf")
    assert main(["inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    reader = gguf.GGUFReader(path)
    nbytes, weights = sum(t.n_bytes for t in reader.tensors), sum(t.n_elements for t in reader.tensors)
    assert facts["file_bytes"] == path.stat().st_size and facts["tensor_bytes"] == nbytes and facts["weights"] == weights
    assert facts["bits_per_weight"] == 8 * nbytes / weights
    assert {name: row["tensors"] for name, row in facts["types"].items()} == dict.fromkeys(TYPES, 1)
    assert facts["metadata"]["t.array.nested"] == [[1, 2], [3], [-4, 5, 6]]
    assert [t["name"] for t in facts["tensors"]] == [t.name for t in reader.tensors]


def test_inspect_abbreviates_long_arrays_and_lets_no_control_code_through(tmp_path, capsys):
    evil = "\x1b[2J\x9b31m\u202e"
    rows = (
        ("t.long", [str(i) for i in range(1000)], ARRAY, None),
        ("t.nan", [float("nan"), float("inf")], ARRAY, None),
        (f"t.{evil}", evil, gguf.GGUFValueType.STRING, None),
    )
    path = write_gguf(tmp_path / "a.gguf", [(f"w{evil}", np.zeros(4, np.uint8), "F32")], rows)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "(1,000 elements)" in text and "'999'" not in text
    assert all(line.isprintable() for line in text.splitlines()), "a control code of the file would reach the terminal"
    assert main(["inspect", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert facts["metadata"]["t.long"] == {"count": 1000, "first": [str(i) for i in range(8)]}
