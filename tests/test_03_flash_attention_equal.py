"""Every attention is the same attention: naive, FlashAttention-1 and -2, packed, split; against float64 loops. No exercise.

Tolerance: float32 arithmetic on standard normals, so 1e-4 relative and 1e-5 absolute, of outputs and log-sum-exps.
"""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.attention import naive, split_kv
from minillm.attention.flash import flash1_head, flash2_head, flash_attention, flash_attention_varlen
from minillm.attention.online_softmax import divide, fresh_state, log_sum_exp, statistics, update
from minillm.attention.split_kv import merge, split_kv_attention
from minillm.course.checks import check_close, draws, seeds

HEADS = [(1, 1), (9, 3), (3, 1), (2, 2), (9, 1), (8, 4)]  # multi-head, grouped (also by an odd number), multi-query
MASKS = [{}, {"causal": False}, {"window": 1}, {"window": 3}, {"window": 3, "offset": 2}, *({"offset": n} for n in (0, -2, 99))]
BLOCKS = [(1, 1), (2, 3), (3, 2), (5, 7), (64, 64)]


def flash1(q, k, v, **options):
    return flash_attention(q, k, v, head=flash1_head, **options)


def flash2(q, k, v, **options):
    return flash_attention(q, k, v, head=flash2_head, **options)


def packed(q, k, v, **options):
    """Between two other sequences, which must not be seen."""
    q3, k3, v3 = (np.concatenate([np.ones_like(x, shape=(1, *x.shape[1:])), x, -np.ones_like(x, shape=(2, *x.shape[1:]))])
                  for x in (q, k, v))  # fmt: skip
    out, lse = flash_attention_varlen(q3, k3, v3, [1, len(q), 2], [1, len(k), 2], **options)
    return out[1:-2], lse[1:-2]


def split(pieces):
    return lambda q, k, v, **options: split_kv_attention(q, k, v, pieces, **options)


VARIANTS = {"flash1": flash1, "flash2": flash2, "packed": packed} | {f"split in {n}": split(n) for n in (1, 2, 3, 50)}


@settings(max_examples=150)
@given(
    seed=seeds, n_q=st.integers(0, 7), n_k=st.integers(0, 9), heads=st.sampled_from(HEADS), d=st.sampled_from([1, 3, 4]),
    how=st.sampled_from(MASKS), blocks=st.sampled_from(BLOCKS), kv_type=st.sampled_from([np.float32, np.float16]),
)  # fmt: skip
def test_all_variants_are_the_oracle(seed, n_q, n_k, heads, d, how, blocks, kv_type):
    q, k, v = draws(seed, (n_q, heads[0], d), (n_k, heads[1], d), (n_k, heads[1], d))
    k, v = k.astype(kv_type), v.astype(kv_type)  # the oracle gets the rounded ones too
    out, lse = oracles.attention_and_lse(q, k, v, **how)
    for name, variant in VARIANTS.items():
        with np.errstate(invalid="raise", over="raise", divide="raise"):  # an awkward row is no reason to warn
            found = variant(q, k, v, block_q=blocks[0], block_k=blocks[1], **how)
        assert found[0].dtype == found[1].dtype == np.float32
        check_close(found[0], out, what=f"output of {name}")
        check_close(found[1], lse, what=f"log-sum-exp of {name}")
    if not how:
        found = naive.attention(q, k, v)
        assert found.dtype == np.float32
        check_close(found, out, what="output of naive")


@pytest.mark.parametrize("how", [{}, {"causal": False}, {"window": 40}], ids=str)
def test_on_longer_rows_with_large_scores_they_agree_too(how):
    q, k, v = draws(1, (70, 9, 16), (131, 3, 16), (131, 3, 16))
    k *= np.linspace(0, 30, 131, dtype=np.float32)[:, None, None]  # scores of some hundreds, larger in each later tile
    out, lse = oracles.attention_and_lse(q, k, v, **how)
    for name, variant in VARIANTS.items():
        found = variant(q, k, v, block_q=16, block_k=16, **how)
        check_close(found[0], out, rtol=1e-3, atol=2e-3, what=f"output of {name}")  # exp of a float32 score of 300: 2e-5 off
        check_close(found[1], lse, what=f"log-sum-exp of {name}")
    if not how:
        check_close(naive.attention(q, k, v), out, rtol=1e-3, atol=2e-3, what="output of naive")


@pytest.mark.parametrize("name", VARIANTS)
def test_an_empty_key_set_gives_zeros_and_minus_infinity(name):
    q, none = np.ones((3, 4, 8), np.float32), np.zeros((0, 2, 8), np.float32)
    out, lse = VARIANTS[name](q, none, none)
    assert out.shape == (3, 4, 8) and not out.any()
    assert lse.shape == (3, 4) and np.isneginf(lse).all()
    assert not naive.attention(q, none, none).any()


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_that_see_nothing_give_zeros_and_the_others_what_is_theirs(name):
    q, k, v = draws(3, (5, 2, 4), (2, 1, 4), (2, 1, 4))  # the first three queries stand before all keys
    out, lse = VARIANTS[name](q, k, v, block_q=2, block_k=1)
    assert not out[:3].any() and np.isneginf(lse[:3]).all()
    np.testing.assert_array_equal(out[3], np.repeat(v[0], 2, axis=0))  # one key is seen: its value comes out, exactly
    assert np.isfinite(lse[3:]).all()


def test_the_inputs_are_left_as_they_were():
    q, k, v = draws(4, (5, 4, 8), (7, 2, 8), (7, 2, 8))
    before = [x.copy() for x in (q, k, v)]
    for variant in (*VARIANTS.values(), lambda *qkv: naive.attention(*qkv)):
        variant(q, k, v)
        for x, y in zip((q, k, v), before, strict=True):
            np.testing.assert_array_equal(x, y)


def test_strided_views_of_a_cache_are_read_where_they_lie():
    q, cache = draws(5, (4, 4, 8), (3, 20, 2, 8))
    k, v = cache[1, :9], cache[2, 3:12]
    for name, variant in VARIANTS.items():
        check_close(variant(q[:, ::-1], k, v)[0], oracles.attention(q[:, ::-1], k, v), what=name)


@given(seed=seeds, q_lengths=st.lists(st.integers(0, 4), max_size=4), data=st.data())
def test_packed_sequences_are_each_as_if_alone(seed, q_lengths, data):
    k_lengths = [data.draw(st.integers(0, 5)) for _ in q_lengths]
    q, k, v = draws(seed, (sum(q_lengths), 2, 3), (sum(k_lengths), 1, 3), (sum(k_lengths), 1, 3))
    out, lse = flash_attention_varlen(q, k, v, q_lengths, k_lengths, block_q=2, block_k=2)
    assert out.shape == q.shape and lse.shape == q.shape[:2]
    for i, (n_q, n_k) in enumerate(zip(q_lengths, k_lengths, strict=True)):
        rows, keys = slice(sum(q_lengths[:i]), sum(q_lengths[:i]) + n_q), slice(sum(k_lengths[:i]), sum(k_lengths[:i]) + n_k)
        alone = oracles.attention_and_lse(q[rows], k[keys], v[keys])
        check_close(out[rows], alone[0], what=f"output of sequence {i}")
        check_close(lse[rows], alone[1], what=f"log-sum-exp of sequence {i}")


# --- the pieces it is made of -------------------------------------------------------------------------------------------


@given(seed=seeds, rows=st.integers(1, 3), n=st.integers(1, 6), hide=st.integers(0, 6))
def test_statistics_and_update_agree_and_end_in_softmax_and_log_sum_exp(seed, rows, n, hide):
    scores, values = draws(seed, (rows, n), (n, 2))
    scores[0, :hide] = -np.inf
    m, l, acc = fresh_state(np.zeros((rows, 2), np.float32))
    assert np.isneginf(m).all() and not l.any() and not acc.any() and m.dtype == l.dtype == acc.dtype == np.float32
    a, b = statistics(m, l, scores)
    m, l, acc = update(m, l, acc, scores, values)
    np.testing.assert_array_equal((a, b), (m, l))
    right = oracles.max_sum_acc(scores, values)
    with np.errstate(divide="ignore"):
        check_close(log_sum_exp(m, l), right[0] + np.log(right[1]), what="log_sum_exp")
    check_close(divide(acc, l), right[2] / np.where(right[1], right[1], 1)[:, None], what="divide")


@pytest.mark.parametrize(("n_k", "splits", "longest"), [(10, 3, 4), (9, 3, 3), (2, 5, 1), (0, 4, 0), (7, 1, 7), (11, 8, 2)])
def test_there_are_no_more_pieces_than_workers_and_none_is_longer_than_it_must_be(monkeypatch, n_k, splits, longest):
    lengths, one = [], split_kv.all_heads
    monkeypatch.setattr(split_kv, "all_heads", lambda q, k, v, **how: (lengths.append(len(k)), one(q, k, v, **how))[1])
    q, k = np.ones((1, 2, 4), np.float32), np.ones((n_k, 1, 4), np.float32)
    split_kv_attention(q, k, k, splits)
    assert len(lengths) <= splits and max(lengths) == longest == -(-n_k // splits) and sum(lengths) == n_k


@given(seed=seeds, parts=st.integers(1, 5))
def test_merging_in_any_order_or_in_two_steps_is_the_same(seed, parts):
    outs, lses = draws(seed, (parts, 3, 2, 4), (parts, 3, 2))
    lses *= 20
    out, lse = merge(outs, lses)
    for again in (merge(outs[::-1], lses[::-1]), merge(*(np.stack([a, b]) for a, b in zip(merge(outs[:1], lses[:1]), merge(
        outs[1:], lses[1:]), strict=True))) if parts > 1 else (outs[0], lses[0])):  # fmt: skip
        check_close(again[0], out.astype(np.float64), what="output")
        check_close(again[1], lse.astype(np.float64), what="log-sum-exp")
