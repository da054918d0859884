"""The steps of the ladder, the plain path, and the way through floats: all give the product of the weights as they are stored."""

import ast
import os
import platform
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from minillm.backends.numba_ import crossover, packed, plain, steps
from minillm.bench import kernels
from minillm.formats.blocks import BLOCK_TYPES, dequantize
from minillm.model.config import ModelConfig

HALVES = {  # where float16 numbers lie
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "MXFP4": (),
}  # fmt: skip


def stored(name, rows, columns, seed=0):
    """A tensor of random bits, with scales of a sensible size."""
    kind, rng = BLOCK_TYPES[name], np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * columns // kind.weights, kind.bytes), np.uint8)
    for at in HALVES.get(name, (0, 2) if name.endswith("_1") or name.startswith("INT") else (0,)):
        blocks[:, at + 1] = 0x20 + 0x80 * (at == 2)
    if name == "MXFP4":  # 2^-8 … 2^-4
        blocks[:, 0] = 120 + blocks[:, 0] % 5
    return SimpleNamespace(raw=blocks.reshape(-1), type=kind, shape=(rows, columns))


def exact(tensor, x):
    return x.astype(np.float64) @ dequantize(tensor.raw, tensor.type, tensor.shape).astype(np.float64).T


def close(y, expected, relative):
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= relative * np.abs(expected).max()


SOON = {"Q4_1", "Q2_K", "MXFP4"}  # each layout is compiled, seconds each: the rest is slow


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in SOON)) for n in packed.LAYOUTS])
def test_the_plain_path_multiplies_every_layout(name):
    for rows, n, threads in ((37, 3, 2), (16, 1, 1), (1, 2, 2)):
        tensor, x = stored(name, rows, 512), np.random.default_rng(1).standard_normal((n, 512)).astype(np.float32)
        close(plain.linear_plain(x, packed.pack(tensor), threads), exact(tensor, x), 1e-6)


def test_the_plain_path_can_be_asked_for():
    """The switch is read once, when the backend is imported: hence a process of its own. 16 bits show in the result."""
    code = (
        "import sys; sys.path[:0] = 'tests', 'tests/support'\n"
        "from test_11_cpu_kernels_steps import *\n"
        "from minillm.backends.numba_.linear import add_linear, can_fuse, linear\n"
        "t, x = stored('Q4_1', 20, 64), np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)\n"
        "m = packed.pack(t)\n"
        "same = np.array_equal(linear(x, m), plain.linear_plain(x, m))\n"
        "y = add_linear(np.ones((2, 20), np.float32), x, m)\n"
        "print(can_fuse(m), same, np.array_equal(y, 1 + plain.linear_plain(x, m)))\n"
    )
    for kernels_, expected in (("plain", "False True True"), ("", "True False False")):
        env = os.environ | {"MINILLM_KERNELS": kernels_}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.split() == expected.split(), kernels_


@pytest.mark.parametrize("rows", [1, 37, 64])
def test_every_step_of_the_ladder_gives_the_same_product(rows):
    tensor, x = stored("Q4_1", rows, 96), np.random.default_rng(2).standard_normal(96).astype(np.float32)
    matrix, raw = packed.pack(tensor), tensor.raw.reshape(rows, -1, 20)
    for step in steps.STEPS:
        close(step(x, raw if step in steps.FILE_ORDER else matrix), exact(tensor, x[None])[0], 2e-4)


@pytest.mark.parametrize(("rows", "n"), [(1, 1), (37, 7), (64, 13), (80, 6)])
def test_the_way_through_floats_gives_the_same_product(rows, n):
    tensor, x = stored("Q4_1", rows, 96), np.random.default_rng(3).standard_normal((n, 96)).astype(np.float32)
    close(steps.dequantized(x, packed.pack(tensor)), exact(tensor, x), 1e-6)


def test_half_reads_every_float16():
    bits = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore", over="ignore"):
        found, expected = np.array([plain.half(b) for b in bits], np.float32), bits.view(np.float16).astype(np.float32)
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the instructions are those of x86")
def test_the_compiler_finds_the_dot_product_instruction_by_itself():
    """tile.py names no instruction of any processor. Without VNNI it is vpmaddwd, with it vpdpwssd."""
    found = steps.instructions_of()
    assert sum(found.values()) >= 16, f"16 pairs of columns a record, and one instruction each, expected; found {found}"


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the instructions are those of x86")
def test_the_compiler_finds_the_look_up_by_itself():
    """A table of sixteen numbers, looked up in all lanes at once: one instruction for each pair of columns, or two by halves."""
    found = steps.instructions_of("IQ4_NL", steps.LOOK_UPS)
    assert sum(found.values()) >= 4 * 16, f"16 pairs of columns a record, in the steps of 1, 2, 4 and 8 tokens; found {found}"
    assert not any(steps.instructions_of("Q4_0", steps.LOOK_UPS).values()), "no look-up without a table"


@pytest.mark.slow
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the instructions are those of x86")
def test_an_older_processor_gets_the_older_instruction(tmp_path):
    code = "from minillm.backends.numba_ import steps as s; print(s.instructions_of() | s.instructions_of('IQ4_NL', s.LOOK_UPS))"
    found = ast.literal_eval(run_as_haswell(code, tmp_path))
    assert found["vpdpwssd"] == 0 and found["vpmaddwd"] >= 16, found
    assert found["vpermw"] == 0 and found["vpshufb"] >= 16, found


def run_as_haswell(code, folder):  # -> what it prints
    env = os.environ | {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c", "MINILLM_CACHE": str(folder)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


PRODUCTS = (
    "import sys; sys.path[:0] = 'tests', 'tests/support'\n"
    "from test_11_cpu_kernels_steps import *\n"
    "from minillm.backends.numba_.linear import linear\n"
    "x = np.random.default_rng(0).standard_normal((7, 256)).astype(np.float32)\n"
    "print([linear(x, packed.pack(stored(name, 20, 256))).tobytes().hex() for name in ('IQ4_NL', 'MXFP4', 'Q2_K', 'Q3_K')])\n"
)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="it can only be asked for on x86")
def test_an_older_processor_computes_the_same_bits(tmp_path):
    """Its look-up is by bytes, its registers are half as wide."""
    here = subprocess.run([sys.executable, "-c", PRODUCTS], capture_output=True, text=True, check=True).stdout
    assert run_as_haswell(PRODUCTS, tmp_path) == here


# --- the bench ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def little():
    shape = {"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "d_head": 16, "d_ff": 96, "vocab_size": 160}
    return kernels.random_weights(ModelConfig(**shape, context_length=64))


def test_the_ladder_counts_every_matrix_and_lies_in_memory_like_a_model(little):
    c = little.config
    assert little.weights == c.matrix_parameters()
    assert little.nbytes == little.weights * 20 // 32
    raws = [raw for raw, _ in little.matrices()]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(raws) for b in raws[:i])


def test_the_figures_of_the_ladder_follow_from_its_times(little):
    machine = SimpleNamespace(read_bytes_per_s=1e10)
    rows = kernels.ladder(little, machine, runs=1)
    assert [row["step"] for row in rows] == [step.__name__ for step in steps.STEPS] + ["fused"]
    for row in rows:
        assert row["bytes_per_s"] == pytest.approx(little.nbytes / row["seconds"])
        assert row["share_of_bandwidth"] == pytest.approx(row["bytes_per_s"] / 1e10)


def test_the_table_prints_what_was_measured(little, monkeypatch):
    machine = SimpleNamespace(read_bytes_per_s=1e10, json=lambda: {"read_bytes_per_s": 1e10})
    monkeypatch.setattr(kernels, "measure_machine", lambda: machine)
    result = kernels.run("little", little.config, runs=1)
    text = kernels.table(result)
    assert "fused" in text and "row_by_row" in text and result["many_tokens"]["tokens"]
    for part, way in (("few_rows", "turned_s"), ("serial", "shared_s")):
        assert len(result[part][way]) == len(result[part]["tokens"])


def test_both_ways_of_attention_that_are_timed_give_one_result(monkeypatch):
    """The calls of few_rows are those of attention.py: its arguments changed once, and the benchmark was not run."""
    outputs = []
    monkeypatch.setattr(kernels, "best_of", lambda work, runs: outputs.append(work()[0]) or 1.0)
    rows = kernels.few_rows(keys=40, runs=1)
    assert len(outputs) == 2 * len(rows["tokens"])
    for a, b in zip(outputs[::2], outputs[1::2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_thresholds_are_written_once():
    """The table in crossover.py says what its constants are."""
    for name in ("SERIAL", "FEW_ROWS", "TOKENS", "DEQUANTIZE"):
        value = re.search(rf"^    {name} +(\w+)  ", crossover.__doc__, re.M)[1]
        assert value == str(getattr(crossover, name))
