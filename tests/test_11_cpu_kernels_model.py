"""Whole models on the Numba backend: every switch of the architecture, against transformers' recordings and NumPy.

Tolerance of logits, of the largest: 1e-4 where weights are float32, as for NumPy; 1e-3 where they are packed, since x is
rounded to 16 bits before each product of each layer (SmolLM2, 30 layers: 2e-4).
"""

import json
import os
import subprocess
import sys
from dataclasses import replace

import gguf
import numpy as np
import pytest
from golden import tiny_models
from test_01_inference_golden import NEAR_TIE, SMOLLM2, TINY, greedy, logits_of

from minillm import LLM, SamplingParams
from minillm.backends import get_backend
from minillm.backends.numba_.team import set_threads, threads
from minillm.cli import main
from minillm.formats.blocks import BLOCK_TYPES
from minillm.model.load import load_model
from minillm.model.random_model import TINY as RANDOM
from minillm.model.random_model import byte_tokenizer, random_tensor, tensor_shapes
from minillm.model.transformer import Segment, Transformer
from minillm.model.weights import StoredTensor, load_weights

FLOAT_TOLERANCE, PACKED_TOLERANCE = 1e-4, 1e-3
SMALL = replace(RANDOM, n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=96, vocab_size=300, context_length=128)
SHAPES = {
    "plain": SMALL,
    "untied": replace(SMALL, tied=False),
    "mha": replace(SMALL, n_kv_heads=4),
    "mqa, odd widths": replace(SMALL, n_heads=5, n_kv_heads=1, d_head=10, tied=False),
    "bias": replace(SMALL, qkv_bias=True, rope_interleaved=False),
    "qk norm": replace(SMALL, qk_norm=True, rope_interleaved=False, n_heads=6, n_kv_heads=3),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other spin, and on a busy machine small models would do little else."""
    before = threads()
    set_threads(1)
    yield
    set_threads(before)


@pytest.mark.parametrize("name", tiny_models.SPECS)
def test_a_tiny_model_of_every_switch_says_what_transformers_says(name, tmp_path):
    tiny_models.write_tiny(name, tmp_path / "tiny.gguf")
    transformer, _ = load_model(tmp_path / "tiny.gguf", backend="numba")
    tolerance = PACKED_TOLERANCE if name == "mixed" else FLOAT_TOLERANCE
    for sequence in TINY[name]:
        expected = np.array(sequence["logits"])
        error = np.abs(logits_of(transformer, sequence["ids"])[sequence["positions"]] - expected).max() / np.abs(expected).max()
        assert error < tolerance, f"{name}: logits off by {error:.2g} of the largest"
        assert greedy(transformer, sequence["ids"], len(sequence["greedy"])) == sequence["greedy"]


def packed_model(config, backend):
    """A random model whose q, k, gate and up are Q4_0, and the other matrices Q8_0 or, rows of odd length, float16."""

    def tensor(name):
        if name not in (shapes := tensor_shapes(config)):
            return None
        values, kind = random_tensor(name, shapes[name], seed=1), "F32"
        if values.ndim == 2:
            kind = "Q4_0" if any(part in name for part in ("attn_q", "attn_k", "gate", "up")) else "Q8_0"
            kind = kind if values.shape[1] % 32 == 0 else "F16"
            values = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
        elif "bias" in name:
            values = values * 3
        return StoredTensor(values.view(np.uint8).reshape(-1), BLOCK_TYPES[kind], shapes[name])

    ops = get_backend(backend)
    return LLM((Transformer(config, load_weights(config, tensor, ops), ops), byte_tokenizer(config.vocab_size)))


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_packed_weights_with_every_switch_say_what_numpy_says(config):
    ours, reference = (packed_model(config, backend) for backend in ("numba", "numpy"))
    ids = np.random.default_rng(2).integers(0, config.vocab_size, 40)
    expected = logits_of(reference.transformer, ids)
    assert np.abs(logits_of(ours.transformer, ids) - expected).max() < PACKED_TOLERANCE * np.abs(expected).max()
    prompts, params = [ids[:n].tolist() for n in (1, 9, 33)], SamplingParams(max_tokens=12, ignore_eos=True)
    assert [c.token_ids for c in ours.generate(prompts, params)] == [c.token_ids for c in reference.generate(prompts, params)]
    assert ours.generate(prompts[1], params).token_ids == ours.generate(prompts, params)[1].token_ids, "alone and in a batch"


@pytest.fixture(scope="module")
def real(smollm2_path):
    return load_model(smollm2_path, backend="numba")[0]


TIES = {"plain_numbers": (6, 216)}  # prompt: (step, our token): where the two best logits of the recording all but agree


GOLDEN = [  # in float16, as the engine does, every third prompt; the rest is slow
    pytest.param(prompt, kv, marks=[pytest.mark.slow] * (kv == "float32" or i % 3 > 0), id=f"{prompt['name']}-{kv}")
    for i, prompt in enumerate(SMOLLM2["prompts"])
    for kv in ("float32", "float16")
]


@pytest.mark.model
@pytest.mark.parametrize(("prompt", "kv"), GOLDEN)
def test_smollm2_writes_the_golden_tokens(real, prompt, kv, monkeypatch):
    """Each token after the recorded ones before it is the recorded one, but for the ties above; after a tie the test goes on."""
    monkeypatch.setattr(real, "kv", kv)
    cache, tokens, parted = real.new_cache(), prompt["ids"], []
    for step, expected in enumerate(prompt["greedy"]):
        found = int(real.forward([Segment(np.array(tokens), cache.length, cache)])[0][-1].argmax())
        if found != expected:
            margin = prompt["margins"][step]
            parted.append((step, found))
            assert margin < NEAR_TIE, f"parts at token {step}, where the best logits differ by {margin}: no tie"
        tokens = [expected]
    assert parted in ([], [TIES.get(prompt["name"])]), f"{prompt['name']} parts at {parted}: list it in TIES"


# The ways in


def run_child(*argv, **environment):
    command = [sys.executable, "-m", "minillm", *map(str, argv)]
    environment = {k: v for k, v in os.environ.items() if k != "MINILLM_BACKEND"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def mixed_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "mixed.gguf"
    tiny_models.write_tiny("mixed", path)
    return path


def test_python_and_the_command_line_choose_it_by_argument_or_variable(mixed_path, monkeypatch, capsys):
    options = ["--model", mixed_path, "--max-tokens", "6", "--json", "hello"]
    expected = LLM(mixed_path, backend="numpy").generate("hello", SamplingParams(max_tokens=6)).token_ids
    by_argument = LLM(mixed_path, backend="numba")
    assert by_argument.transformer.ops is get_backend("numba")
    assert by_argument.generate("hello", SamplingParams(max_tokens=6)).token_ids == expected
    assert LLM(mixed_path).transformer.ops is get_backend("numpy")
    monkeypatch.setenv("MINILLM_BACKEND", "numba")
    assert LLM(mixed_path).transformer.ops is get_backend("numba")
    seen = []
    monkeypatch.setattr("minillm.model.load.get_backend", lambda name: seen.append(name) or get_backend(name))
    for argv in (options, ["--backend", "numba", *options], ["--backend", "numpy", *options]):
        assert main(["generate", *map(str, argv)]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["token_ids"] == expected
    assert seen == ["numba", "numba", "numpy"]


def test_auto_takes_numpy_for_a_small_model_and_numba_for_a_large_one(mixed_path, monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("MINILLM_BACKEND", raising=False)
    monkeypatch.setenv("MINILLM_CACHE", str(tmp_path))  # where no kernels are kept
    seen = []
    monkeypatch.setattr("minillm.model.load.get_backend", lambda name: seen.append(name) or get_backend(name))
    for limit, chosen in {10**9: "numpy", 1: "numba"}.items():
        monkeypatch.setattr("minillm.backends.WORTH_COMPILING", limit)
        assert main(["generate", "--model", str(mixed_path), "--max-tokens", "2", "hello"]) == 0
        assert f" · {chosen} · " in capsys.readouterr().err, "it says what it chose"
    assert seen == ["numpy", "numba"]


@pytest.mark.slow
def test_generate_takes_at_most_three_times_the_bytes_of_the_file(smollm2_path):
    """Python, NumPy and Numba are a third of it. Compiling takes more, once: the first process does it where need be."""
    options = ["generate", "--model", smollm2_path, "--max-tokens", 32, "--json", "Once upon a time"]
    answers = [run_child(*options, MINILLM_BACKEND="numba") for _ in range(2)]
    peak = json.loads(answers[1].stdout)["peak_rss_bytes"]
    assert peak <= 3 * smollm2_path.stat().st_size


def test_a_child_process_gets_it_from_the_variable(mixed_path):
    options = ["generate", "--model", mixed_path, "--max-tokens", 6, "--json", "hello"]
    answers = [run_child(*options, MINILLM_BACKEND=name) for name in ("numba", "numpy")]
    assert [a.returncode for a in answers] == [0, 0], answers[0].stderr
    tokens = [json.loads(a.stdout.splitlines()[-1])["token_ids"] for a in answers]
    assert tokens[0] == tokens[1]
