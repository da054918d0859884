"""What the K types and those with a table ask of the kernels: awkward shapes, bits in memory, every scale, and whole models.

kernel_help.py has the oracle, float64 over weights that the gguf package decoded, and states the tolerance.
"""

import weakref
from dataclasses import fields, replace

import numpy as np
import pytest
from kernel_help import PACKED, check_within, product, rows_first, stored_matrix, values_of
from our_blocks import OURS

from minillm import LLM, SamplingParams, memory
from minillm.backends import get_backend
from minillm.backends.numba_ import packed
from minillm.backends.numba_.layouts import LAYOUTS
from minillm.formats.blocks import BLOCK_TYPES, dequantize, quantize
from minillm.model.random_model import TINY, byte_tokenizer, random_tensor, tensor_shapes
from minillm.model.transformer import Transformer
from minillm.model.weights import StoredTensor, load_weights

ops = get_backend("numba")
NEW = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4")  # a head before eight records, or a table
BITS = {  # in memory: the file's; a byte for what takes six bits there
    "Q4_0": 4.5, "Q4_1": 5, "Q5_0": 5.5, "Q5_1": 6, "Q8_0": 8.5, "IQ4_NL": 4.5, "MXFP4": 4.25,
    "Q2_K": 2.625, "Q3_K": 3.5625, "Q4_K": 4.625, "Q5_K": 5.625, "Q6_K": 6.5625,
}  # fmt: skip


@pytest.mark.parametrize("type", NEW)
def test_awkward_shapes_against_float64_and_each_token_as_alone(type):
    """Rows that fill no band, tokens of every step of the loop; a token has the same bits in any company."""
    tokens = (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33)
    for columns in (256, 512, 768):
        whole = stored_matrix(type, 576, columns)
        w, x = values_of(whole), np.random.default_rng(columns).standard_normal((33, columns)).astype(np.float32)
        expected, tolerance = product(x, w, True)
        for rows in (1, 15, 17, 576):
            matrix = ops.load_matrix(rows_first(whole, rows))
            together = ops.linear(x, matrix)
            for n in tokens:
                found = ops.linear(x[:n], matrix)
                check_within(found, expected[:n, :rows], tolerance[:n, :rows], f"{type} {rows} x {columns}, {n} tokens")
                assert found.tobytes() == together[:n].tobytes(), f"{type} {rows} x {columns}: {n} tokens, and all"


@pytest.mark.parametrize("type", LAYOUTS)
def test_bits_in_memory_are_at_most_half_a_bit_more_than_in_the_file(type):
    for rows, columns in ((576, 768), (16, 256), (17, 512), (1, 256)):
        matrix = packed.pack(stored_matrix(type, rows, columns))
        arrays = [a for a in (getattr(matrix, field.name) for field in fields(matrix)) if isinstance(a, np.ndarray)]
        padded = -(-rows // 16) * 16  # rows of whole bands: what the file does not have, and is not counted below
        bits = sum(a.nbytes for a in arrays) * 8 / (padded * columns)
        assert len(arrays) == 1 and matrix.nbytes == arrays[0].nbytes and matrix.padded_rows == padded
        stored = BLOCK_TYPES[type].bits_per_weight
        assert bits == (stored if type in OURS else BITS[type]) and bits <= stored + 0.5, f"{type}: {bits} bits a weight"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_record_begins_where_a_load_may_expect_it(layout):
    """Registers of 512 bits load from anywhere; those of 256 bits fault where a record is not as aligned as the code says."""
    head = layout.together * layout.block_bytes
    starts = {layout.head_bytes + i * layout.record_bytes + n * head for i in range(layout.together) for n in range(4)}
    assert all(start % layout.alignment == 0 for start in starts | {head})
    record = layout.dtype["records"].base
    assert layout.alignment >= 16 and head == layout.dtype.itemsize and layout.record_bytes == record.itemsize


def test_every_exponent_of_mxfp4_and_every_code():
    """Scales from 2^-128, which float32 has as a subnormal number, to 2^127; and both zeros are zero."""
    raw = np.empty((256, 17), np.uint8)
    raw[:, 0], raw[:, 1:] = np.arange(256), np.arange(16) * 0x11
    tensor = stored_matrix("MXFP4", 256, 32, raw=raw)
    matrix = packed.pack(tensor)
    found, expected = packed.unpack_rows(matrix, np.arange(256)), values_of(tensor)
    assert np.array_equal(found, expected) and np.array_equal(found, dequantize(raw.reshape(-1), tensor.type, (256, 32)))
    x = np.zeros((3, 32), np.float32)
    x[0, 1], x[1, 5], x[2, 15] = 1, 0.5, 0.25
    last = 237  # beyond, a scale times one of these integer sums is infinite
    sums = x.astype(np.float64) @ expected[:last].T.astype(np.float64)
    np.testing.assert_allclose(ops.linear(x, matrix)[:, :last], sums.astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("e", [*range(230, 240), 252, 253, 254, 255])
def test_a_scale_of_mxfp4_near_the_end_of_float32_gives_what_numpy_gives(e):
    """The largest codes times the largest x of 32 columns: a finite product where the reference's is finite."""
    raw = np.full((17, 2 * 17), 0x77, np.uint8)  # all 6 times the scale
    raw[:, [0, 17]] = 120  # of most rows, small
    raw[9, 17], raw[16, 0] = e, e - 1
    tensor = stored_matrix("MXFP4", 17, 64, raw=raw)
    x = np.stack([np.full(64, 2.0**-12), np.linspace(0.1, 1, 64) * 2.0**-11, np.ones(64)]).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = get_backend("numpy").linear(x, get_backend("numpy").load_matrix(tensor))
    found = ops.linear(x, ops.load_matrix(tensor))
    assert np.isfinite(expected[:2]).all() == (e <= 252)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def float16(band, at):
    return np.float32(band[at : at + 2].view("<f2")[0])


def by_the_picture(band, type, row, column):  # the bytes of a band -> a weight, float32
    """Read one weight as layouts.py draws it: a head, records, planes of codes, scales with a lane for each row."""
    bits, group, low, offset, d_at, dmin_at, record = {
        "Q2_K": (2, 16, 2, 0, 0, 32, 128 + 32), "Q3_K": (3, 16, 2, 4, 0, None, 192 + 32), "Q4_K": (4, 32, 4, 0, 0, 32, 256 + 32),
        "Q5_K": (5, 32, 4, 0, 0, 32, 320 + 32), "Q6_K": (6, 16, 4, 32, 0, None, 384 + 32),
    }[type]  # fmt: skip
    head_bytes, block, c = 32 if dmin_at is None else 64, column // 32, column % 32
    head = block // 8 * (head_bytes + 8 * record)
    start, code, plane, shift = head + head_bytes + block % 8 * record, 0, 0, 0
    for width in (low, bits - low) if bits > low else (low,):
        pair, half = c // 2, c % 2
        word = start + plane + 64 * (pair * width // 16) + 4 * row + 2 * half
        both = int(band[word]) | int(band[word + 1]) << 8
        code |= (both >> pair * width % 16 & (1 << width) - 1) << shift
        plane, shift = plane + 64 * width, shift + width
    scale_at = start + 64 * bits + 16 * (c // group) + row
    byte = int(band[scale_at])
    d = float16(band, head + d_at + 2 * row)
    if type == "Q2_K":
        return d * np.float32(byte & 15) * np.float32(code) - float16(band, head + dmin_at + 2 * row) * np.float32(byte >> 4)
    scale = d * np.float32(byte - 256 * (byte > 127))
    if dmin_at is None:
        return scale * np.float32(code - offset)
    minimum = float16(band, head + dmin_at + 2 * row) * np.float32(band[scale_at + 16 * (32 // group)])
    return scale * np.float32(code) - minimum


@pytest.mark.parametrize("type", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_a_band_is_as_the_picture_has_it(type):
    tensor = stored_matrix(type, 19, 512)
    bands, expected = packed.pack(tensor).records.reshape(2, -1), values_of(tensor)
    for row in (0, 7, 15, 16, 18):
        found = [by_the_picture(bands[row // 16], type, row % 16, column) for column in range(512)]
        assert np.array_equal(np.array(found, np.float32), expected[row]), f"{type}, row {row}"


WIDE = replace(
    TINY, n_layers=2, d_model=256, n_heads=4, n_kv_heads=2, d_head=64, d_ff=512, vocab_size=300, context_length=128, tied=False
)


def model_of(type, backend):
    """A random model, 256 columns and more, every matrix of this type."""

    def tensor(name):
        if (shape := tensor_shapes(WIDE).get(name)) is None:
            return None
        values = random_tensor(name, shape, seed=3)
        if len(shape) == 1:
            return StoredTensor(values.view(np.uint8), BLOCK_TYPES["F32"], shape)
        return StoredTensor(quantize(values, BLOCK_TYPES[type]), BLOCK_TYPES[type], shape)

    ops = get_backend(backend)
    return LLM((Transformer(WIDE, load_weights(WIDE, tensor, ops), ops), byte_tokenizer(WIDE.vocab_size)))


@pytest.mark.parametrize("type", PACKED)
def test_greedy_tokens_are_those_of_numpy(type):
    ours, reference = (model_of(type, backend) for backend in ("numba", "numpy"))
    rng = np.random.default_rng(5)
    prompts, params = [rng.integers(0, 300, n).tolist() for n in (1, 9, 33)], SamplingParams(max_tokens=12, ignore_eos=True)
    expected = [answer.token_ids for answer in reference.generate(prompts, params)]
    assert [answer.token_ids for answer in ours.generate(prompts, params)] == expected
    assert [ours.generate(prompt, params).token_ids for prompt in prompts] == expected, "alone as in a batch"


def test_matrices_share_large_blocks_and_no_byte():
    """NumPy asks for large pages where an array has 4 MB: small matrices lie together in one that has."""
    carver = memory.Carver()
    arrays = [carver.carve(size) for size in (1, 64, 65, memory.LARGE - 100, 5, memory.LARGE + 7, 300)]
    assert [len(a) for a in arrays[:3]] == [1, 64, 65] and all(a.ctypes.data % 64 == 0 for a in arrays)
    blocks = [id(a.base) for a in arrays]
    assert len(set(blocks)) == 4 and len(set(blocks[:3])) == 1 and blocks[3] == blocks[4]
    for number, a in enumerate(arrays):
        a[:] = number
    assert all((a == number).all() for number, a in enumerate(arrays)), "nobody writes to another's bytes"
    block = weakref.ref(arrays[3].base)
    del arrays, a
    assert block() is None, "a block whose arrays are gone is given back"
