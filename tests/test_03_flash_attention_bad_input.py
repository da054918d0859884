"""What attention refuses, and that it says which numbers were at fault."""

import tracemalloc

import numpy as np
import pytest

from minillm import memory
from minillm.attention import naive
from minillm.attention.backward import flash_backward
from minillm.attention.flash import flash1_head, flash_attention, flash_attention_varlen
from minillm.attention.split_kv import split_kv_attention
from minillm.course.checks import draws
from minillm.errors import MiniLLMError

EVERY = {
    "naive": naive.attention,
    "flash1": lambda q, k, v: flash_attention(q, k, v, head=flash1_head, block_q=2, block_k=2),
    "flash2": lambda q, k, v: flash_attention(q, k, v, block_q=2, block_k=2),
    "packed": lambda q, k, v: flash_attention_varlen(q, k, v, [1, len(q) - 1], [2, len(k) - 2]),
    "split": lambda q, k, v: split_kv_attention(q, k, v, 3),
}
every = pytest.mark.parametrize("attention", EVERY.values(), ids=EVERY)


def zeros(*shape):
    return np.zeros(shape, np.float32)


@every
@pytest.mark.parametrize(
    ("q", "k", "v", "says"),
    [
        ((5, 4, 8), (5, 2, 6), (5, 2, 6), "q has shape (5, 4, 8), k (5, 2, 6)"),
        ((5, 4, 8), (5, 2, 8), (6, 2, 8), "k (5, 2, 8) and v (6, 2, 8)"),
        ((5, 4, 8), (6, 2, 8), (5, 2, 8), "k (6, 2, 8) and v (5, 2, 8)"),
        ((5, 4, 8), (5, 2, 8), (5, 2, 7), "k (5, 2, 8) and v (5, 2, 7)"),
        ((5, 8), (5, 2, 8), (5, 2, 8), "q has shape (5, 8), k (5, 2, 8)"),
        ((5, 4, 8), (5, 8), (5, 8), "q has shape (5, 4, 8), k (5, 8)"),
        ((5, 4, 8), (5, 3, 8), (5, 3, 8), "4 query heads cannot share 3 KV heads"),
        ((5, 2, 8), (5, 4, 8), (5, 4, 8), "2 query heads cannot share 4 KV heads"),
        ((5, 4, 8), (5, 0, 8), (5, 0, 8), "4 query heads cannot share 0 KV heads"),
        ((5, 4, 0), (5, 2, 0), (5, 2, 0), "heads of 0 components"),
    ],
)
def test_shapes_that_disagree_are_refused_with_both(attention, q, k, v, says):
    with pytest.raises(MiniLLMError) as error:
        attention(zeros(*q), zeros(*k), zeros(*v))
    assert says in str(error.value)


@every
@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_nan_and_infinity_are_refused_with_their_place(attention, name, value):
    arrays = dict(zip("qkv", draws(1, (5, 4, 8), (5, 2, 8), (5, 2, 8)), strict=True))
    signs = np.float32([1, -1, 1, -1, 1])  # else ±inf may give scores of nothing but -inf, which is how a key is hidden
    arrays["q"][..., 3], arrays["k"][..., 3] = signs[:4], signs[:, None]
    arrays[name][4, 1, 3] = value
    with np.errstate(all="ignore"), pytest.raises(MiniLLMError) as error:
        attention(**arrays)
    assert f"{name} holds {value} at token 4, head 1 (1 values in all)" in str(error.value)


@every
def test_scores_that_overflow_are_refused_and_not_blamed_on_an_input(attention):
    q, k, v = np.full((5, 4, 8), 1e30, np.float32), np.full((5, 2, 8), 1e30, np.float32), zeros(5, 2, 8)
    with np.errstate(all="ignore"), pytest.raises(MiniLLMError, match="scores overflow float32: q and k are finite"):
        attention(q, k, v)


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.parametrize("name", ["block_q", "block_k"])
def test_a_tile_of_no_rows_is_refused_by_name(name, size):
    q = k = v = zeros(3, 2, 4)
    out, lse = flash_attention(q, k, v)
    for call in (
        lambda: flash_attention(q, k, v, **{name: size}),
        lambda: flash_attention_varlen(q, k, v, [3], [3], **{name: size}),
        lambda: split_kv_attention(q, k, v, 2, **{name: size}),
        lambda: flash_backward(q, k, v, out, lse, q, **{name: size}),
    ):
        with pytest.raises(MiniLLMError, match=f"{name} is the number of rows of a tile, at least 1; found {size}"):
            call()


@pytest.mark.parametrize("splits", [0, -2])
def test_no_splits_are_refused(splits):
    with pytest.raises(MiniLLMError, match=f"splits .* at least 1; found {splits}"):
        split_kv_attention(zeros(1, 1, 2), zeros(4, 1, 2), zeros(4, 1, 2), splits)


@pytest.mark.parametrize("how", [{"window": 0}, {"window": -1}, {"window": 3, "causal": False}], ids=str)
def test_a_window_that_means_nothing_is_refused_everywhere(how):
    q = k = v = zeros(3, 2, 4)
    for call in (flash_attention, lambda *x, **h: split_kv_attention(*x, 2, **h)):
        with pytest.raises(MiniLLMError, match=rf"at least 1 key, found {how['window']} and causal={how.get('causal', True)}"):
            call(q, k, v, **how)


@pytest.mark.parametrize(
    ("q_lengths", "k_lengths", "says"),
    [
        ([2, 2], [2, 4], "4 queries in 2 sequences and 6 keys in 2; q holds 5, k 6"),
        ([2, 3], [2, 3], "5 queries in 2 sequences and 5 keys in 2; q holds 5, k 6"),
        ([5], [2, 4], "5 queries in 1 sequences and 6 keys in 2"),
        ([], [], "0 queries in 0 sequences"),
        ([6, -1], [3, 3], "negative, found [6, -1] queries"),
        ([2, 3], [7, -1], "and [7, -1] keys"),
    ],
)
def test_lengths_that_do_not_add_up_are_refused_with_both_sums(q_lengths, k_lengths, says):
    with pytest.raises(MiniLLMError) as error:
        flash_attention_varlen(zeros(5, 2, 4), zeros(6, 2, 4), zeros(6, 2, 4), q_lengths, k_lengths)
    assert says in str(error.value)


# --- memory: the shapes are real, the arrays are one number seen many times -----------------------------------------------


def seen_as(*shape):
    return np.broadcast_to(np.float32(0), shape)


def test_naive_attention_beyond_memory_is_refused_with_the_number_before_anything_is_taken(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000_000)
    q, k = seen_as(10_000, 9, 64), seen_as(20_000, 3, 64)
    tracemalloc.start()
    with pytest.raises(MiniLLMError) as error:
        naive.attention(q, k, k)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    need = 3 * 4 * 9 * 10_000 * 20_000  # scores, weights and one array between them
    assert f"9 heads × 10,000 × 20,000 would take {need:,} bytes, 1,000,000,000 are available" in str(error.value)
    assert peak < 1_000_000


def test_flash_attention_beyond_memory_is_refused_with_the_number(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 300_000_000)
    q = seen_as(1_000_000, 2, 64)
    with pytest.raises(MiniLLMError) as error:
        flash_attention(q, q, q)
    assert f"(1000000, 2, 64) would take {4 * 2 * 1_000_000 * (64 + 2):,} bytes, 300,000,000 are available" in str(error.value)


def test_what_is_refused_to_naive_attention_fits_flash_attention(monkeypatch):
    monkeypatch.setattr(memory, "ALWAYS_FITS", 0)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)
    q = zeros(400, 1, 4)
    with pytest.raises(MiniLLMError, match="1,920,000 bytes"):
        naive.attention(q, q, q)
    assert flash_attention(q, q, q)[0].shape == q.shape


@pytest.mark.parametrize(
    ("nbytes", "available", "refused"), [(101, 100, True), (100, 100, False), (99, 100, False), (101, None, False), (9, 5, False)]
)
def test_only_what_is_large_and_larger_than_what_there_is_is_refused(monkeypatch, nbytes, available, refused):
    monkeypatch.setattr(memory, "ALWAYS_FITS", 10)
    monkeypatch.setattr(memory, "available_bytes", lambda: available)
    if not refused:
        memory.refuse_beyond_memory(nbytes, "a table")
        return
    with pytest.raises(MiniLLMError) as error:
        memory.refuse_beyond_memory(nbytes, "a table", "Take a smaller one.")
    assert str(error.value) == "a table would take 101 bytes, 100 are available. Take a smaller one."


def test_the_system_says_how_much_memory_is_left_or_none():
    left = memory.available_bytes()
    assert left is None or 0 < left < 2**50
