"""Our own block types on the Numba backend: every grid and NF4 stay packed, and say what NumPy says.

our_blocks.py is the oracle of the weights, kernel_help.py of products. Each layout is compiled for its own, seconds each: two of
them run at once, the others are slow.
"""

import os
import subprocess
import sys
import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

from kernel_help import check_within, product, rows_first, stored_matrix
from our_blocks import GRIDS, OURS, random_ours, sizes, values_of_ours
from test_equality import NEW, ON_PAGES, greedy, prompts

from minillm import LLM
from minillm.backends import fitting_backend, get_backend, without_kernels
from minillm.backends.invariant import invariant_ops
from minillm.backends.numba_ import handles, levels, packed, plain
from minillm.backends.numba_.layouts import HEAD, LAYOUTS
from minillm.backends.numba_.processor import FEATURES
from minillm.formats import blocks
from minillm.formats.blocks import BLOCK_TYPES, BlockType, dequantize, f16, quantize
from minillm.model.random_model import TINY, byte_tokenizer, random_tensor, tensor_shapes
from minillm.model.transformer import Transformer
from minillm.model.weights import StoredTensor, load_weights
from minillm.terminal import notice

ops = get_backend("numba")
SOON = "INT4_G64", "NF4"
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name not in SOON)) for name in OURS]
NAN, INF = float("nan"), float("inf")


def draws(n, columns, seed=0):
    return np.random.default_rng([seed, n, columns]).standard_normal((n, columns)).astype(np.float32)


# --- in memory ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33])
def test_unpacking_gives_the_bits_of_the_weights(name, rows):
    """Rows that fill no band, one group of columns and several; scales of any 16 bits, infinity and NaN among them."""
    group = sizes(name)[0]
    for columns, finite in ((group, True), (3 * group, True), (5 * group, False)):
        raw = random_ours(name, (rows, columns), np.random.default_rng([rows, columns]), finite).reshape(-1)
        tensor = StoredTensor(raw, BLOCK_TYPES[name], (rows, columns))
        matrix, expected = ops.load_matrix(tensor), values_of_ours(name, raw, tensor.shape)
        assert isinstance(matrix, packed.PackedMatrix)
        found = packed.unpack_rows(matrix, np.arange(rows))
        for other in (expected, dequantize(raw, tensor.type, tensor.shape)):
            same = (found.view(np.uint32) == other.view(np.uint32)) | (np.isnan(found) & np.isnan(other))
            assert same.all(), f"{name}, {rows} x {columns}: {(~same).sum():,} of {same.size:,} differ"
        some = np.array([rows - 1, 0, rows // 2, 0])
        assert ops.embed(some, matrix).tobytes() == found[some].tobytes()


@pytest.mark.parametrize("name", OURS)
def test_memory_has_the_bits_of_the_file_and_no_more(name):
    """Every array that a matrix holds is counted."""
    for rows, columns in ((16, sizes(name)[0]), (576, 768), (2064, 256)):
        tensor = stored_matrix(name, rows, columns)
        matrix = ops.load_matrix(tensor)
        held = [getattr(matrix, field.name) for field in fields(matrix)]
        arrays = [a for a in held if isinstance(a, np.ndarray)]
        assert sum(a.nbytes for a in arrays) == matrix.nbytes == len(tensor.raw), f"{name}, {rows} x {columns}"


def by_the_picture(band, name, row, column):  # the bytes of a band -> a weight, float32
    """Read one weight as layouts.py draws it: a head with scales and minima where a group is wider than a record; else behind."""
    bits, group = (4, 64) if name == "NF4" else GRIDS[name]
    half = lambda at: np.float32(band[at + 2 * row : at + 2 * row + 2].view("<f2")[0])  # noqa: E731
    block, c, minima = column // 32, column % 32, name != "NF4"
    if group > 32:
        together, head_bytes = group // 32, 32 + 32 * minima
        head = block // together * (head_bytes + together * 64 * bits)
        start, scale_at = head + head_bytes + block % together * 64 * bits, head
    else:
        start = block * (64 * bits + 64)
        scale_at = start + 64 * bits
    code, plane, shift = 0, 0, 0
    for width in {2: (2,), 3: (2, 1), 4: (4,), 8: (8,)}[bits]:
        word = start + plane + 64 * (c // 2 * width // 16) + 4 * row + 2 * (c % 2)
        both = int(band[word]) | int(band[word + 1]) << 8
        code |= (both >> c // 2 * width % 16 & (1 << width) - 1) << shift
        plane, shift = plane + 64 * width, shift + width
    if name == "NF4":
        return half(scale_at) * LAYOUTS["NF4"].values[code]
    return half(scale_at) * np.float32(code) - half(scale_at + 32)


@pytest.mark.parametrize("name", OURS)
def test_a_band_is_as_the_picture_has_it(name):
    tensor = stored_matrix(name, 19, 256)
    bands, expected = packed.pack(tensor).records.reshape(2, -1), values_of_ours(name, tensor.raw, tensor.shape)
    for row in (0, 7, 15, 16, 18):
        found = [by_the_picture(bands[row // 16], name, row % 16, column) for column in range(256)]
        assert np.array_equal(np.array(found, np.float32), expected[row]), f"{name}, row {row}"


@pytest.mark.parametrize("name", ["INT3_G64", "INT8_G128", "NF4"])
def test_loading_makes_no_float_copy_of_a_matrix(name, monkeypatch):
    """A spy on every decoder, and a count of all that NumPy holds meanwhile: rows at a time, beside the packed matrix itself."""
    rows, columns = 16_384, 256
    tensor = stored_matrix(name, rows, columns)

    def forbidden(*args, **kwargs):
        raise AssertionError("a matrix that stays packed was decoded to floats")

    monkeypatch.setattr(BlockType, "decode", forbidden)
    monkeypatch.setattr(blocks, "dequantize", forbidden)
    tracemalloc.start()
    try:
        matrix = ops.load_matrix(tensor)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most - matrix.nbytes < 4 * rows * columns / 8, f"{most - matrix.nbytes:,} bytes beside {rows * columns:,} weights"


# --- products -----------------------------------------------------------------------------------------------------------------


def tolerance_of(name, x, w):  # what product() allows; NF4 takes x as it is
    expected, tolerance = product(x, w, name != "NF4")
    return expected, tolerance


@pytest.mark.parametrize("name", EACH)
def test_awkward_shapes_against_float64_and_each_token_as_alone(name):
    """Rows that fill no band, one group of columns and more, every step of tokens; a token has the same bits in any company."""
    group, same = sizes(name)[0], invariant_ops(ops)
    for columns in (group, 3 * group, 512):
        whole, x = stored_matrix(name, 130, columns), draws(33, columns)
        w, before = values_of_ours(name, whole.raw, whole.shape), draws(33, 130, 1)
        expected, tolerance = tolerance_of(name, x, w)
        for rows in (1, 15, 17, 130):
            matrix = ops.load_matrix(rows_first(whole, rows))
            together = ops.linear(x, matrix)
            assert together.tobytes() == same.linear(x, matrix).tobytes()
            for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33):
                what, part = f"{name} {rows} x {columns}, {n} tokens", np.s_[:n, :rows]
                found = ops.linear(x[:n], matrix)
                check_within(found, expected[part], tolerance[part], what)
                assert found.tobytes() == together[:n].tobytes(), f"{what}: as among all"
                added = ops.add_linear(before[part], x[:n], matrix)
                check_within(added, (expected + before)[part], tolerance[part] + 1e-6 * np.abs(before[part]), f"add {what}")


@pytest.mark.parametrize("name", EACH)
def test_what_is_not_finite_stays_with_its_token_and_its_row(name):
    tensor, x = stored_matrix(name, 40, 256), draws(9, 256)
    clean = ops.linear(x, ops.load_matrix(tensor))
    raw = np.array(tensor.raw).reshape(40, -1)
    raw[17, 0:2] = np.array([0x7E00], "<u2").view(np.uint8)
    found = ops.linear(x, ops.load_matrix(tensor._replace(raw=raw.reshape(-1))))
    others = np.arange(40) != 17
    assert np.isnan(found[:, 17]).all() and found[:, others].tobytes() == clean[:, others].tobytes()
    x[4, 100] = INF
    with np.errstate(invalid="ignore"):
        found = ops.linear(x, ops.load_matrix(tensor))
    others = np.arange(9) != 4
    assert not np.isfinite(found[4]).any() and found[others].tobytes() == clean[others].tobytes()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "NF4")) for name in OURS])
def test_the_plain_path_gives_the_product(name):
    for rows, columns in ((37, 256), (1, sizes(name)[0])):
        tensor, x = stored_matrix(name, rows, columns), draws(3, columns)
        expected, tolerance = product(x, values_of_ours(name, tensor.raw, tensor.shape), False)
        check_within(plain.linear_plain(x, packed.pack(tensor), 2), expected, 3 * tolerance + 1e-7, f"{name} {rows} x {columns}")


PRODUCTS = (
    "import sys; sys.path[:0] = 'tests', 'tests/support'\n"
    "from test_07_quantization_native import *\n"
    "x, names = draws(7, 256), ('NF4', 'INT3_G64', 'INT8_G128')\n"
    "print([ops.linear(x, ops.load_matrix(stored_matrix(name, 20, 256))).tobytes().hex() for name in names])\n"
)


@pytest.mark.slow
@pytest.mark.skipif("+avx2" not in FEATURES, reason="it can only be asked for on x86")
def test_an_older_processor_computes_the_same_bits(tmp_path):
    """Registers of eight numbers: the levels of NF4 are looked up in two halves."""
    older = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c", "MINILLM_CACHE": str(tmp_path)}
    run = lambda env: subprocess.run([sys.executable, "-c", PRODUCTS], env=env, capture_output=True, text=True, check=True)  # noqa: E731
    assert run(os.environ | older).stdout == run(dict(os.environ)).stdout


# --- models -------------------------------------------------------------------------------------------------------------------

CONFIG = replace(
    TINY, n_layers=2, d_model=256, n_heads=4, n_kv_heads=2, d_head=64, d_ff=384, vocab_size=300, context_length=256, tied=False
)


def model_of(names, backend):
    """A random model whose matrices have these types in turn."""
    given = {}

    def tensor(name):
        if (shape := tensor_shapes(CONFIG).get(name)) is None:
            return None
        values = random_tensor(name, shape, seed=3)
        if len(shape) == 1:
            return StoredTensor(values.view(np.uint8), BLOCK_TYPES["F32"], shape)
        kind = BLOCK_TYPES[given.setdefault(name, names[len(given) % len(names)])]
        return StoredTensor(quantize(values, kind), kind, shape)

    chosen = get_backend(backend)
    return LLM((Transformer(CONFIG, load_weights(CONFIG, tensor, chosen), chosen), byte_tokenizer(CONFIG.vocab_size)))


@pytest.mark.parametrize("name", EACH)
def test_greedy_tokens_are_those_of_numpy(name):
    ours, reference = (model_of([name], backend) for backend in ("numba", "numpy"))
    given = prompts(reference, count=5)
    expected = [greedy(reference, p) for p in given]
    assert [greedy(ours, p) for p in given] == expected and len(expected[0]) == NEW


PAIRS = [("INT4_G64", "NF4"), ("INT8_G64", "INT3_G128"), ("INT2_G32", "INT4_G128"), ("INT3_G64", "INT8_G128"),
         ("INT2_G64", "INT3_G32"), ("INT2_G128", "INT8_G32")]  # fmt: skip


@pytest.fixture(scope="module", params=[pytest.param(pair, marks=[pytest.mark.slow] * (i > 0)) for i, pair in enumerate(PAIRS)],
                ids="-".join)  # fmt: skip
def pair(request):
    """A model of two types on Numba, and what NumPy says with the same weights."""
    ours, reference = (model_of(request.param, backend) for backend in ("numba", "numpy"))
    given = prompts(reference, count=5)
    return ours, given, [greedy(reference, p) for p in given]


@pytest.mark.parametrize("way", ON_PAGES)
def test_every_way_on_pages_gives_the_same_tokens(pair, way):
    llm, given, expected = pair
    assert ON_PAGES[way](llm, given) == expected


def test_every_type_is_in_a_pair():
    assert sorted(name for pair in PAIRS for name in pair) == sorted(OURS)


def test_code_is_made_for_the_types_that_a_model_has_and_no_others(monkeypatch):
    made, real = set(), {"levels": levels.bands_times_tokens, "records": handles.bands_times_tokens}
    for name, module in (("levels", levels), ("records", handles)):
        watched = lambda number, *bits, f=real[name]: made.add(number) or f(number, *bits)  # noqa: E731
        monkeypatch.setattr(module, "bands_times_tokens", watched)
    greedy(model_of(SOON, "numba"), [1, 2, 3])
    assert made == {packed.LAYOUT_LIST.index(LAYOUTS[name]) for name in SOON}


# --- types that numba has no kernels for --------------------------------------------------------------------------------------

ODD = BlockType("F16X", 4_000_000, 1, 2, plain=f16)


@pytest.fixture
def told(capfd, monkeypatch):
    """What is said on standard error, where nothing was said before."""
    monkeypatch.delenv("MINILLM_NOTICE", raising=False)
    monkeypatch.delenv("MINILLM_BACKEND", raising=False)
    notice.cache_clear()
    yield lambda: capfd.readouterr().err.splitlines()
    notice.cache_clear()


def test_auto_takes_numpy_for_a_type_without_kernels_and_says_it_once(told):
    assert without_kernels("numba", ["F32", "BF16", "Q4_K", *OURS]) == without_kernels("numpy", ["F16X"]) == []
    assert fitting_backend(10**9, types=["Q4_1", "NF4"]) == "numba" and told() == []
    for _ in range(2):
        assert fitting_backend(10**9, types=["Q4_1", "F16X"]) == "numpy"
    assert told() == ["minillm: numba has no kernels for F16X: the model runs on numpy, its matrices as float32."]


def test_numba_makes_float32_of_a_type_without_kernels_and_says_it_once(told, monkeypatch):
    weights = draws(20, 64).astype(np.float16)
    tensor = StoredTensor(weights.view(np.uint8).reshape(-1), ODD, weights.shape)
    matrices = [ops.load_matrix(tensor) for _ in range(2)]
    assert told() == ["minillm: numba has no kernels for F16X: such matrices become float32 in memory."]
    x = draws(3, 64)
    np.testing.assert_allclose(ops.linear(x, matrices[0]), x @ weights.astype(np.float32).T, rtol=1e-4, atol=1e-4)
    assert matrices[0].width == 4
    notice.cache_clear()
    monkeypatch.setenv("MINILLM_NOTICE", "off")
    ops.load_matrix(tensor)
    assert told() == []


def test_wide_groups_have_heads_and_narrow_ones_none():
    assert {name for name in OURS if LAYOUTS[name].scales == HEAD} == {name for name in OURS if sizes(name)[0] > 32}
