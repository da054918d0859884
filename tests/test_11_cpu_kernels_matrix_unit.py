"""The matrix unit: the same bits as the vector step, for every layout, at its bounds; and nothing read that is not there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

from minillm.backends.numba_.bands import operand, with_room
from minillm.backends.numba_.linear import add_linear, linear
from minillm.backends.numba_.matrix_unit import MatrixEmitter
from minillm.backends.numba_.packed import LAYOUTS, PackedMatrix, aligned
from minillm.backends.numba_.processor import FEATURES, MATRIX_UNIT

UNIT = [name for name, layout in LAYOUTS.items() if not layout.levels]  # levels that are floats have no code on it
unit = pytest.mark.skipif(not MATRIX_UNIT, reason="this processor has no matrix unit that a process may use")
TOKENS = (16, 17, 22, 25, 32, 40, 41, 75)  # whole tiles; rests that fill one up, and rests for the vector step


def packed(name, rows, columns, codes=None, seed=0):
    """Draw records of a layout: every bit of the codes, or the same byte everywhere; scales and minima of a usual size."""
    layout, rng = LAYOUTS[name], np.random.default_rng([seed, rows, columns])
    records = aligned((-(-rows // 16), columns // 32, layout.block_bytes), np.uint8)
    records[:] = rng.integers(0, 256, records.shape)
    head = records.reshape(len(records), -1).view(layout.dtype)
    if codes is not None:
        head["records"]["codes"] = codes
    if name == "MXFP4":
        head["records"]["scales"] = rng.integers(120, 130, head["records"]["scales"].shape)
    for part in (head, head["records"]):
        for field in part.dtype.names:
            if part[field].dtype == np.float16:
                part[field] = rng.normal(0, 1, part[field].shape)
    return PackedMatrix(records, layout, (rows, columns))


def whole(name, columns):  # as many columns, or what fills records that share a head
    step = 32 * LAYOUTS[name].together
    return -(-columns // step) * step


def by_vectors(x, matrix):
    """Multiply four tokens at a time, too few for the matrix unit."""
    return np.concatenate([linear(x[i : i + 4], matrix) for i in range(0, len(x), 4)])


@unit
@pytest.mark.parametrize("name", UNIT)
@pytest.mark.parametrize("rows, columns", [(16, 32), (96, 256), (48, 288), (32, 832)])
def test_the_same_bits_as_the_vector_step(name, rows, columns):
    """Blocks of eight records and what is left: 1, 8, 9 and 26 records; of those that share a head, so many as fill the last."""
    columns = whole(name, columns)
    matrix, rng = packed(name, rows, columns), np.random.default_rng(1)
    for n in TOKENS:
        x = rng.standard_normal((n, columns)).astype(np.float32)
        np.testing.assert_array_equal(linear(x, matrix), by_vectors(x, matrix), err_msg=f"{name}, {n} tokens")


@unit
@pytest.mark.parametrize("name", UNIT)
@pytest.mark.parametrize("codes", [0x00, 0xFF])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_are_exact(name, codes, sign):
    """All codes at one end and x at 32,767 or -32,767: nowhere is a sum larger, and one unit less in x still shows."""
    columns = whole(name, 64)
    matrix, x = packed(name, 16, columns, codes), np.full((16, columns), sign, np.float32)
    x[1:, 5] *= 1 - np.arange(1, 16, dtype=np.float32) / 32767
    np.testing.assert_array_equal(linear(x, matrix), by_vectors(x, matrix))


@unit
def test_sums_that_fit_into_one_tile_are_those_below_2_to_24():
    """The bound is kept by 4-bit codes, and by others whose offset halves them; the rest has two tiles."""
    one = {name for name in UNIT if MatrixEmitter(LAYOUTS[name], 16).halves == 1}
    ours = {name for name in UNIT if name.startswith(("INT2", "INT3", "INT4"))}
    assert one == {"Q4_0", "Q4_1", "Q5_0", "Q2_K", "Q3_K", "Q4_K", "Q6_K", "MXFP4", *ours} and len(ours) == 8


@unit
def test_a_sum_is_gone_on_with():
    """As after attention and the feed-forward part, where the result is added to x."""
    matrix, rng = packed("Q4_1", 96, 288), np.random.default_rng(2)
    x, h = rng.standard_normal((33, 96)).astype(np.float32), rng.standard_normal((33, 288)).astype(np.float32)
    one_by_one = np.concatenate([add_linear(x[i : i + 1], h[i : i + 1], matrix) for i in range(33)])
    np.testing.assert_array_equal(add_linear(x, h, matrix), one_by_one)


@unit
def test_what_is_not_a_number_stays_with_its_token():
    matrix, x = packed("Q4_0", 32, 64), np.ones((20, 64), np.float32)
    x[3, 40], x[18, 1] = np.nan, np.inf
    bad = ~np.isfinite(linear(x, matrix))
    assert bad[[3, 18]].all() and not np.delete(bad, [3, 18], axis=0).any()


@unit
def test_rows_begin_with_a_cache_line():
    """Else a tile takes six times as long to load."""
    made = operand(np.ones((41, 96), np.float32))
    for name in ("codes", "scale", "sums", "parts"):
        assert getattr(made, name).ctypes.data % 64 == 0 and len(getattr(made, name)) == with_room(41) == 48, name
    assert made.parts.strides[0] % 64 == 0


def test_without_the_unit_the_same_bits():
    """MINILLM_KERNELS=vector: another process, the other code, the same product."""
    program = (
        "import sys; sys.path.insert(0, 'tests'); from test_11_cpu_kernels_matrix_unit import *\n"
        "x = np.random.default_rng(3).standard_normal((16, 64)).astype(np.float32)\n"
        "print(MATRIX_UNIT, linear(x, packed('Q4_1', 32, 64)).tobytes().hex())"
    )
    said, root = {}, Path(__file__).parents[1]
    for kernels in ("", "vector"):
        env = os.environ | {"MINILLM_KERNELS": kernels, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=True, timeout=300)
        said[kernels] = done.stdout.split()
    assert said["vector"][0] == "False" and said[""][0] == str(MATRIX_UNIT)
    assert said[""][1] == said["vector"][1]


EMULATED = (
    "import sys; sys.path[:0] = 'tests', 'tests/support'; import amx_emulated\n"
    "from test_11_cpu_kernels_matrix_unit import *\n"
    "for name in sys.argv[1:]:\n"
    "    test_the_same_bits_as_the_vector_step(name, 48, 288)\n"
    "    for codes in (0x00, 0xFF):\n"
    "        test_the_largest_sums_are_exact(name, codes, -1)\n"
    "test_sums_that_fit_into_one_tile_are_those_below_2_to_24()\n"
    "print(MATRIX_UNIT, amx_emulated.shapes != {})"
)


@pytest.mark.parametrize("names", [("Q2_K",), pytest.param([n for n in UNIT if n != "Q2_K"], marks=pytest.mark.slow)])
def test_a_unit_in_memory_computes_the_same_bits(names, tmp_path):
    """On any x86 machine with registers of 512 bits: each instruction of the unit as loops, the rest as it is."""
    if "+avx512bw" not in FEATURES:
        pytest.skip("matrix_unit.py looks codes up in a register of 512 bits")
    root = Path(__file__).parents[1]
    env = os.environ | {"PYTHONPATH": str(root), "MINILLM_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", EMULATED, *names]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["True", "True"]
