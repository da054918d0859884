"""Weights times tokens in the Numba backend: every type of block, rows and tokens with tails, against float64.

kernel_help.py states the tolerance and its reason. Unpacking has none: it is bit for bit what the file says.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf_files import HALVES, random_blocks
from kernel_help import PACKED, PLAIN, TYPES, check_product, check_within, product, rows_first, stored_matrix, values_of

from minillm.backends import get_backend
from minillm.backends.numba_ import packed
from minillm.backends.numba_.team import set_threads, threads
from minillm.formats.blocks import BLOCK_TYPES, dequantize

ops, reference = get_backend("numba"), get_backend("numpy")
ROWS = (1, 15, 16, 17, 40, 63, 65, 130)  # bands of 16 and of 64, and their tails
TOKENS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 33)  # steps of 8, 4, 2 and 1, and of 6, 2 and 1
NAN, INF = float("nan"), float("inf")


def columns_of(type):
    """From the least that the type allows."""
    least = BLOCK_TYPES[type].weights
    return {1: (1, 5, 33, 96), 32: (32, 64, 96, 576), 256: (256, 1536)}[least]


def draws(n, columns, seed=0):
    """Tokens whose blocks differ in size: a rounding with the wrong block's scale shows."""
    rng = np.random.default_rng([seed, n, columns])
    sizes = 10.0 ** rng.uniform(-2, 1, (n, -(-columns // 32)))
    return (rng.standard_normal((n, columns)) * sizes.repeat(32, axis=1)[:, :columns]).astype(np.float32)


SOON = {"F16", "Q4_1", "Q6_K", "Q8_0"}  # the rest is slow


@pytest.mark.parametrize("type", [pytest.param(type, marks=[pytest.mark.slow] * (type not in SOON)) for type in TYPES])
def test_products_of_every_type_with_tails_of_rows_and_tokens(type):
    for columns in columns_of(type):
        whole = stored_matrix(type, max(ROWS), columns)
        w, x = values_of(whole), draws(max(TOKENS), columns)
        bias, before = draws(1, max(ROWS), 1)[0], draws(max(TOKENS), max(ROWS), 2)
        expected, tolerance = product(x, w, type in PACKED)  # once: BLAS and the kernels get in each other's way
        slack = tolerance + 1e-6 * (np.abs(before) + np.abs(bias))
        for rows in ROWS:
            matrix = ops.load_matrix(rows_first(whole, rows))
            for n in TOKENS:
                what, part = f"{type} {rows} x {columns}, {n} tokens", np.s_[:n, :rows]
                check_within(ops.linear(x[:n], matrix), expected[part], tolerance[part], f"linear {what}")
                added = ops.add_linear(before[part], x[:n], matrix)
                check_within(added, (expected + before)[part], slack[part], f"add {what}")
            check_within(ops.linear(x[:n], matrix, bias[:rows]), (expected + bias)[part], slack[part], f"bias {what}")


@pytest.mark.parametrize("type", TYPES)
def test_rows_are_looked_up_as_the_numbers_that_they_stand_for(type):
    for columns in columns_of(type):
        tensor = stored_matrix(type, 65, columns)
        tokens = np.array([64, 0, 15, 16, 64, 31])
        found, expected = ops.embed(tokens, ops.load_matrix(tensor)), values_of(tensor)[tokens]
        assert found.dtype == np.float32 and found.tobytes() == expected.tobytes(), f"{type}, {columns} columns"


@pytest.mark.parametrize("type", PACKED)
@pytest.mark.parametrize("scale", [None, 0x0000, 0x8000, 0x0001, 0x03FF, 0x7BFF, 0x7C00, 0xFC00, 0x7E00])
def test_unpacking_gives_the_bits_that_dequantizing_the_file_gives(type, scale):
    """Scales: whatever comes (None), zeros, subnormal, the largest, infinities, not a number."""
    raw = random_blocks(type, (33, 512), np.random.default_rng(3), finite=False).reshape(-1, BLOCK_TYPES[type].bytes)
    for at in HALVES[type] if scale is not None else ():
        raw[:, at : at + 2] = np.array([scale], "<u2").view(np.uint8)
    tensor = stored_matrix(type, 33, 512, raw=raw)
    matrix = packed.pack(tensor)
    found, expected = packed.unpack_rows(matrix, np.arange(33)), dequantize(tensor.raw, tensor.type, tensor.shape)
    same = (found.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(found) & np.isnan(expected))
    assert same.all(), f"{type}: {(~same).sum():,} of {same.size:,} differ"


@pytest.mark.parametrize("type", PACKED)
def test_packing_keeps_the_bits_of_the_file(type):
    """What six bits take in the file, scales of Q3_K, Q4_K and Q5_K, takes a byte: test_11_cpu_kernels_types.py counts."""
    for rows, bands in ((1, 1), (16, 1), (17, 2), (2048, 128), (2049, 129)):  # more rows than are repacked at a time
        tensor = stored_matrix(type, rows, 256)
        matrix = packed.pack(tensor)
        if type not in ("Q3_K", "Q4_K", "Q5_K"):
            assert matrix.nbytes == len(tensor.raw) // rows * 16 * bands, "the same size as in the file, but for rows of zeros"
        assert matrix.records.ctypes.data % 64 == 0 and matrix.shape == (rows, 256)
        last = packed.unpack_rows(matrix, np.array([rows - 1]))
        assert last.tobytes() == values_of(tensor)[-1:].tobytes()


@pytest.mark.parametrize("type", TYPES)
def test_tokens_of_any_size_and_layout(type):
    columns = columns_of(type)[-1]
    tensor = stored_matrix(type, 40, columns)
    matrix, w, packed_type = ops.load_matrix(tensor), values_of(tensor), type in PACKED
    x = draws(9, columns)
    for size in (1e-30, 1e-12, 1e12, 1e30):
        check_product(ops.linear(x * np.float32(size), matrix), x * np.float32(size), w, packed_type, f"x of size {size}")
    assert not ops.linear(np.zeros((3, columns), np.float32), matrix).any(), "zeros give zeros"
    assert ops.linear(x[:0], matrix).shape == (0, 40)
    part = x.copy()
    part[:, : columns // 2] = 0
    check_product(ops.linear(part, matrix), part, w, packed_type, "half of the blocks are zero")
    contiguous, wide = ops.linear(x, matrix), np.full((18, columns + 3), NAN, np.float32)
    wide[::2, :columns] = x
    for name, view in {
        "columns first": np.asfortranarray(x),
        "every second row of a wider array": wide[::2, :columns],
        "reversed": x[::-1].copy()[::-1],
        "every second column": x.repeat(2, axis=1)[:, ::2],
        "float64": x.astype(np.float64),
    }.items():
        assert ops.linear(view, matrix).tobytes() == contiguous.tobytes(), name
        assert np.array_equal(ops.add_linear(ops.linear(x, matrix), view, matrix), ops.add_linear(contiguous, x, matrix)), name


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_in_a_token_spoils_that_token_and_no_other(type, bad):
    columns = columns_of(type)[-1]
    matrix = ops.load_matrix(stored_matrix(type, 40, columns))
    for n, place in ((1, 0), (9, 4), (9, 8)):
        x = draws(n, columns)
        clean = ops.linear(x, matrix)
        x[place, columns // 2] = bad
        with np.errstate(invalid="ignore"):
            found, added = ops.linear(x, matrix), ops.add_linear(np.zeros_like(clean), x, matrix)
        others = np.arange(n) != place
        assert not np.isfinite(found[place]).any() and not np.isfinite(added[place]).any()
        assert found[others].tobytes() == clean[others].tobytes()


@pytest.mark.parametrize("type", [type for type in PACKED if HALVES[type]])
@pytest.mark.parametrize("scale", [0x7C00, 0xFC00, 0x7E00], ids=["inf", "-inf", "nan"])
def test_what_is_not_finite_in_a_weight_spoils_its_row_and_no_other(type, scale):
    tensor = stored_matrix(type, 40, 512)
    raw = np.array(tensor.raw).reshape(40, -1)
    raw[17, HALVES[type][0] : HALVES[type][0] + 2] = np.array([scale], "<u2").view(np.uint8)
    spoiled = stored_matrix(type, 40, 512, raw=raw)
    x = draws(5, 512)
    clean, found = ops.linear(x, ops.load_matrix(tensor)), ops.linear(x, ops.load_matrix(spoiled))
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(x @ values_of(spoiled)[17]).any(), "the reference has no number there"
    assert not np.isfinite(found[:, 17]).any()
    others = np.arange(40) != 17
    assert found[:, others].tobytes() == clean[:, others].tobytes()


@pytest.mark.parametrize("type", TYPES)
def test_one_thread_or_two_today_or_tomorrow_the_bits_are_the_same(type):
    columns = columns_of(type)[-1]
    matrix, x = ops.load_matrix(stored_matrix(type, 130, columns)), draws(33, columns)
    before, results = threads(), set()
    try:
        for count in (1, 2, 3):
            set_threads(count)
            results |= {(ops.linear(x, matrix).tobytes(), ops.add_linear(x[:, :1] + np.zeros((33, 130)), x, matrix).tobytes())
                        for _ in range(3)}  # fmt: skip
    finally:
        set_threads(before)
    assert len(results) == 1


def test_a_token_gets_the_same_bits_alone_and_in_any_company():
    """So greedy output cannot depend on the batch."""
    for type in ("Q4_1", "Q8_0", "F16"):
        matrix, x = ops.load_matrix(stored_matrix(type, 65, 512)), draws(17, 512)
        together = ops.linear(x, matrix)
        for t in (0, 7, 8, 15, 16):
            assert ops.linear(x[t : t + 1], matrix).tobytes() == together[t : t + 1].tobytes(), f"{type}, token {t}"


def test_vectors_are_float32_and_what_needs_no_kernel_is_handed_on():
    for type in PLAIN:
        vector = stored_matrix(type, 1, 96)._replace(shape=(96,))
        assert ops.load_matrix(vector).tobytes() == values_of(stored_matrix(type, 1, 96)).tobytes()
    assert ops.rms_norm is reference.rms_norm and ops.rope_angles is reference.rope_angles


def test_no_kernel_calls_blas():
    """Its threads and Numba's would wait for each other, spinning: 2 ms become 25."""
    banned, found = {"dot", "matmul", "einsum", "tensordot", "vdot", "inner", "linalg"}, []
    for path in sorted(Path(packed.__file__).parent.glob("*.py")):
        if path.name == "sketches.py":
            continue  # exercises, in NumPy: no part of a model runs them
        for node in ast.walk(ast.parse(path.read_text())):
            product = isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)
            if product or (isinstance(node, ast.Attribute) and node.attr in banned):
                found.append(f"{path.name}:{node.lineno}")
    assert not found


def test_threads_follow_the_machine_and_the_variable():
    code = "import numba, minillm.backends.numba_ as b; print(b.state()['threads'])"

    def threads(**more):
        environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | more
        return int(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert threads() == cores and threads(NUMBA_NUM_THREADS="1") == 1
