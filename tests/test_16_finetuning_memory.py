"""What a training step holds: the formula against what was allocated, for each method; and the project's two bars."""

import errno
import mmap
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from minillm.errors import TrainingError
from minillm.model.config import ModelConfig
from minillm.model.lora import MATRICES
from minillm.training import lora, model
from minillm.training.checkpoint import State
from minillm.training.layer import EVERY_WEIGHT, layer_forward
from minillm.training.memory import METHODS, activation_bytes, measured_peak, step_memory
from minillm.training.optimizer import adamw, clip, zeros_like
from minillm.training.paged import paged
from minillm.training.qlora import quantize_base

BASE = ModelConfig(
    n_layers=3, d_model=128, n_heads=4, n_kv_heads=2, d_head=32, d_ff=352, vocab_size=500, context_length=300, tied=True
)  # fmt: skip
SHAPES = {
    "tied": BASE,
    "untied, large vocabulary": replace(BASE, tied=False, vocab_size=2500),
    "MQA, wide": replace(BASE, n_kv_heads=1, d_ff=900, n_layers=2),
    "deep, narrow, normed q and k": replace(BASE, n_layers=8, d_model=64, qk_norm=True, d_ff=200),
    "one layer": replace(BASE, n_layers=1, n_kv_heads=4),
}
SMOLLM2 = ModelConfig(  # 135M
    n_layers=30, d_model=576, n_heads=9, n_kv_heads=3, d_head=64, d_ff=1536, vocab_size=49152, context_length=8192, tied=True
)  # fmt: skip
ADAMW = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}


@pytest.fixture(scope="module", autouse=True)
def warm():
    """What Python imports and keeps at a first step is not of the step."""
    for method in METHODS:
        one_step(trained(BASE, method), BASE, 1, 4)


def about(nbytes):
    """Within 5%; or 120 KB, where objects of Python and NumPy's buffers are as much."""
    return pytest.approx(nbytes, rel=0.05, abs=1.2e5)


def trained(config, method, rank=4, matrices=("attn_q", "attn_v"), table="f16", recompute=False, page=lambda moments: moments):
    """-> State of a run, its gradients' function: all that there is before a step."""
    weights = model.parameters(config)
    gradients = partial(model.loss_and_gradients, config, recompute=recompute)
    if method != "full":
        base = quantize_base(weights, table) if method == "qlora" else weights
        gradients = partial(lora.loss_and_gradients, config, base, 8.0, recompute=recompute)
        weights = lora.fresh_adapter(config, rank, 8.0, matrices).weights
    return State(0, weights, page(zeros_like(weights)), page(zeros_like(weights)), {}), gradients


def one_step(made, config, batch, length):
    state, gradients_of = made
    tokens, targets = np.random.default_rng(0).integers(0, config.vocab_size, (2, batch, length))
    _, gradients = gradients_of(state.parameters, tokens, targets)
    clip(gradients, 1.0)
    adamw(state.parameters, gradients, state.first, state.second, 1, 1e-3, **ADAMW)


def peak(config, batch, length, method, **options):
    return measured_peak(partial(trained, config, method, **options), lambda made: one_step(made, config, batch, length))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_formula_is_what_a_step_allocates(shape, method, recompute):
    config, batch, length = SHAPES[shape], *((2, 55) if recompute else (1, 100))
    counted = step_memory(config, batch, length, method, rank=4, recompute=recompute)
    found = peak(config, batch, length, method, recompute=recompute)
    assert counted.total == about(found), f"{batch} × {length}: {counted}, measured {found:,}"


def test_where_activations_outweigh_gradients_the_last_layer_is_the_worst():
    counted = step_memory(BASE, 2, 120)
    assert counted.when == "last layer" and counted.total == pytest.approx(peak(BASE, 2, 120, "full"), rel=0.02)


def test_a_step_whose_worst_moment_is_the_embedding_is_counted_too():
    """Untied: the embedding's gradient comes last, beside all others."""
    untied = SHAPES["untied, large vocabulary"]
    counted = step_memory(untied, 1, 90, recompute=True)
    assert counted.when == "embedding" and counted.total == about(peak(untied, 1, 90, "full", recompute=True))


@pytest.mark.parametrize("table", ["nf4", "f16", "f32"])
def test_so_it_is_with_every_matrix_adapted_and_each_kind_of_table(table):
    options = {"rank": 16, "matrices": MATRICES, "table": table}
    counted = step_memory(SHAPES["untied, large vocabulary"], 1, 40, "qlora", **options)
    assert counted.total == about(peak(SHAPES["untied, large vocabulary"], 1, 40, "qlora", **options))


def test_each_moment_is_the_worst_somewhere():
    untied = SHAPES["untied, large vocabulary"]
    worst = {step_memory(c, 1, length, m).when for c in (BASE, untied) for length in (8, 48, 80, 200) for m in METHODS}
    assert worst == {"head", "last layer", "first layer", "embedding", "update"}


ADAPTED = [
    None, ("attn_q", "attn_v"), ("attn_k",), ("attn_output",), ("ffn_up", "attn_output"), ("ffn_down",), ("ffn_gate", "ffn_down"),
    MATRICES,
]  # fmt: skip


@pytest.mark.parametrize("adapted", ADAPTED, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_the_arrays_that_a_layer_keeps(shape, adapted):
    config, tokens = SHAPES[shape], np.zeros((2, 7), int)
    weights, products = model.parameters(config), EVERY_WEIGHT
    if adapted:
        weights, products = weights | lora.fresh_adapter(config, 2, 4.0, adapted).weights, lora.LoRAProducts(4.0)
    x = np.ones((14, config.d_model), np.float32)
    angles = model.angles_of(config, weights, tokens)
    _, kept = layer_forward(x, model.layer_weights(weights, 0), config, angles, 2, products)
    arrays = {id(a): a.size for a in (getattr(kept, name) for name in kept.__slots__) if a is not None}
    one = replace(config, n_layers=1)
    assert 4 * sum(arrays.values()) == activation_bytes(one, 2, 7, adapted)
    assert (activation_bytes(one, 2, 7, adapted) == activation_bytes(one, 2, 7)) == (adapted in (None, MATRICES))


def test_lora_takes_less_than_half_of_full_fine_tuning_and_qlora_less_than_lora():
    """At a batch whose activations take less than 8 bytes a weight."""
    full, thin, packed = (peak(BASE, 1, 64, method) for method in METHODS)
    assert thin < 0.5 * full and packed < 0.6 * thin


def test_so_it_is_counted_for_smollm2_at_512_tokens_and_not_at_8192():
    full, thin, packed = (step_memory(SMOLLM2, 1, 512, method).total for method in METHODS)
    assert thin < 0.5 * full and packed < 0.75 * thin
    full, thin = (step_memory(SMOLLM2, 4, 2048, method).total for method in ("full", "lora"))
    assert thin > 0.5 * full, "three quarters of the activations are there for both"
    full, thin = (step_memory(SMOLLM2, 4, 2048, method, recompute=True).total for method in ("full", "lora"))
    assert thin < 0.85 * full


def test_a_measurement_counts_the_state_and_not_how_it_was_made():
    def make():
        np.ones(10**7)  # let go before the step
        return np.ones(10**5)

    found = measured_peak(make, lambda state: np.ones(2 * 10**5).sum() + np.ones(10**5).sum())
    assert 8 * 3 * 10**5 <= found < 8 * 3.1 * 10**5
    with pytest.raises(TrainingError, match="one measurement at a time"):
        measured_peak(lambda: measured_peak(make, len), len)
    assert measured_peak(make, len) >= 8 * 10**5, "tracing ends with the error"


@pytest.mark.parametrize("bad, told", [
    ({"method": "lor"}, "full, lora, qlora, found 'lor'"), ({"method": "qlora", "table": "f8"}, "nf4, f16, f32, found 'f8'"),
    ({"method": "lora", "matrices": ("attn_z",)}, "attn_z"),
])  # fmt: skip
def test_what_there_is_not_is_refused(bad, told):
    with pytest.raises(TrainingError, match=told):
        step_memory(BASE, 1, 8, **bad)


def test_paged_moments_change_no_bit_and_take_no_memory(tmp_path):
    states = []
    for page in (lambda moments: moments, partial(paged, folder=tmp_path)):
        made = trained(BASE, "full", page=page)
        for _ in range(3):
            one_step(made, BASE, 1, 5)
        states.append(made[0])
    for group in ("parameters", "first", "second"):
        a, b = (getattr(state, group) for state in states)
        assert all(np.array_equal(a[name], b[name]) for name in a) and any(array.any() for array in a.values())
    assert list(tmp_path.iterdir()) == [], "the file has no name"
    saved = peak(BASE, 1, 40, "full") - peak(BASE, 1, 40, "full", page=partial(paged, folder=tmp_path))
    assert saved == pytest.approx(8 * BASE.parameters(), rel=0.02)


def test_pages_that_were_dropped_come_back_from_the_file(tmp_path):
    """What the system does under pressure, done by hand: after it nothing of the moments is in memory."""
    arrays = {"a": np.arange(5000, dtype=np.float32), "b": np.ones((3, 7), np.float32)}
    copies = paged(arrays, tmp_path)
    pages = copies["a"].base
    while not isinstance(pages, mmap.mmap):
        pages = pages.obj if isinstance(pages, memoryview) else pages.base
    copies["a"] += 1
    pages.flush()
    if hasattr(pages, "madvise"):
        pages.madvise(mmap.MADV_DONTNEED)
    assert np.array_equal(copies["a"], arrays["a"] + 1) and np.array_equal(copies["b"], arrays["b"])


def test_a_disk_that_refuses_says_how_many_bytes_it_was(tmp_path):
    with pytest.raises(TrainingError, match="20 bytes .*missing"):
        paged({"a": np.ones(5, np.float32)}, tmp_path / "missing")
    assert paged({}, tmp_path) == {}


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room in a file")
def test_a_disk_without_room_is_found_out_before_the_first_step(tmp_path, monkeypatch):
    def full(handle, start, nbytes):
        raise OSError(errno.ENOSPC, f"no room for {nbytes}")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TrainingError, match="20 bytes .*no room for 20"):
        paged({"a": np.ones(5, np.float32)}, tmp_path)
