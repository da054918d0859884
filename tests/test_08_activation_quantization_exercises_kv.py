"""Exercises of lesson 08 on keys and values: a grid for each channel, rows of 4 bits, what a query sees of sealed groups."""

import mistakes_kv_rows as mistakes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.cache.kinds import new_cache
from minillm.course.checks import answers, check_close, exercise, run_seed, seeds
from minillm.model.config import ModelConfig
from minillm.quantization.kivi import GROUP, per_channel
from minillm.quantization.kv_formats import encode_int4

SHAPE = ModelConfig(n_layers=2, d_model=16, n_heads=4, n_kv_heads=2, d_head=8, d_ff=24, vocab_size=300, context_length=128)


def chance(*numbers):
    return np.random.default_rng([run_seed(), *numbers])


# --- 08.4 ---------------------------------------------------------------------------------------------------------------


def keys_of(seed, tokens, heads, d):
    """Keys with a channel that is large in all tokens, another one in each head."""
    rng = chance(seed, 9)
    x = rng.standard_normal((tokens, heads, d)) * np.exp(0.5 * rng.standard_normal((1, heads, d)))
    for head in range(heads):
        x[:, head, rng.integers(0, d)] += 30
    return x.astype(np.float32)


def check_keys(keys, bits):
    expected, wrong = mistakes.channels(keys, bits), mistakes.channel_mistakes(keys, bits)
    what = f"of {len(keys)} tokens, {keys.shape[1]} heads of {keys.shape[2]}, {bits} bits,"
    ask = "Which axis of (tokens, heads, d) do the numbers of a channel lie along?"
    with answers(f"per_channel {what}", ask), np.errstate(all="ignore"):
        found = per_channel(keys.copy(), bits)
    for i, name in ((1, "scales"), (2, "minima")):
        check_close(found[i], expected[i], rtol=1e-3, atol=1e-6, what=f"the {name} {what}", mistakes=lambda i=i: wrong[i])
    codes = found[0].astype(int) if isinstance(found[0], np.ndarray) and found[0].dtype.kind in "iuf" else found[0]
    check_close(codes, expected[0].astype(int), rtol=0, atol=0, what=f"the codes {what}", mistakes=lambda: wrong[0])
    return found


@exercise("08.4", points=2, hint=(
    "The numbers of a channel are those of all tokens at one head and one place. Along which axis do smallest and largest lie?",
    "lowest, highest = keys.min(axis=0), keys.max(axis=0), one for each head and channel. The scale is the range over `top`.",
    "scales, minima = as_half((highest - lowest) / top), as_half(lowest); codes = np.rint((keys - minima) / scales), in 0 … top.",
))  # fmt: skip
@given(bits=st.sampled_from([2, 4]), heads=st.integers(1, 2), tokens=st.sampled_from([32, 3, 8]), seed=seeds)
def test_each_channel_of_each_head_has_a_grid_over_its_tokens(bits, heads, tokens, seed):
    check_keys(keys_of(seed, tokens, heads, 8), bits)


@exercise("08.4", points=1, hint="A channel that is the same in all tokens has a range of 0. What is 0 / 0? See never_zero.")
def test_a_constant_channel_has_codes_of_zero():
    keys = keys_of(10, 8, 2, 8)
    keys[:, 1, 3], keys[:, 0, 0] = 1.5004, 0  # float16 has 1.5: so 0.0004 / 0 is not a code
    check_keys(keys, 4)


@exercise("08.4", points=1, hint="An outlier channel must not cost the others their steps: compare with a grid for each token.")
def test_outlier_channels_do_not_harm_the_others():
    """20 groups of keys, 2 bits: squared errors are under a tenth of those with a grid for each token."""
    own, token = 0.0, 0.0
    for seed in range(20):
        keys = keys_of(seed, 32, 2, 16)
        codes, scales, minima = mistakes.channels(keys, 2, 2)
        token += np.square(codes * scales + minima - keys).sum()
        found = [np.asarray(a, np.float64) for a in per_channel(keys.copy(), 2)]
        own += np.square(found[0] * found[1] + found[2] - keys).sum()
    told = f"squared errors are {own / token:.3f} of those with a grid for each token"
    assert own < 0.1 * token, f"{told}, expected under 0.1. Does each channel have a grid of its own?"


# --- 08.7 ---------------------------------------------------------------------------------------------------------------


def check_rows(x):
    expected, wrong = mistakes.row(x), mistakes.row_mistakes(x)
    what = f"the bytes of rows of shape {x.shape}"
    ask = "d codes of 4 bits and two float16 make a row of d / 2 + 4 bytes."
    with answers(f"encode_int4 of shape {x.shape}", ask), np.errstate(all="ignore"):
        found = encode_int4(x.copy())
    found = found.astype(int) if isinstance(found, np.ndarray) and found.dtype.kind in "iu" else found
    check_close(found, expected, rtol=0, atol=0, what=what, mistakes=lambda: wrong)


@exercise("08.7", points=2, hint=(
    "A row has its own grid: sixteen levels from its smallest number to its largest. How many codes fit into a byte?",
    "codes as in 07.3, 0 … 15. The first half of the row takes the low four bits of the bytes, the second half the high ones.",
    "joined(codes[..., :half] | codes[..., half:] << 4, scale, minimum), scale and minimum of shape (..., 1), as_half.",
))  # fmt: skip
@given(d=st.sampled_from([8, 2, 6, 32]), heads=st.integers(1, 2), seed=seeds)
def test_a_row_is_half_as_many_bytes_as_numbers_and_then_scale_and_minimum(d, heads, seed):
    rng = chance(seed, 16)
    x = rng.standard_normal((2, heads, d)) * np.exp(rng.standard_normal((2, heads, 1))) + rng.standard_normal((2, heads, 1))
    check_rows(x.astype(np.float32))


@exercise("08.7", points=1, hint="A row of equal numbers has scale 0: see never_zero. All codes are 0: the minimum says all.")
def test_a_row_of_equal_numbers():
    x = chance(17).standard_normal((2, 2, 8)).astype(np.float32)
    x[0, 1], x[1, 0] = 0, 2.5
    check_rows(x)


@exercise("08.7", points=2, hint="Count bytes: float16 takes two for each number. What do your rows take?")
@pytest.mark.parametrize("d", [128, 64])
def test_three_times_as_many_tokens_fit_into_the_same_memory(d):
    """And they come back within half a step of their row."""
    x = chance(18).standard_normal((16, 2, d)).astype(np.float32)
    rows = encode_int4(x.copy())
    of_float16, of_mine = ((1 << 20) // (nbytes // 16) for nbytes in (2 * x.size, max(16, int(np.asarray(rows).nbytes))))
    told = f"in 1 MiB fit {of_mine:,} tokens of 2 heads of {d}, and {of_float16:,} in float16"
    assert of_mine > 3.2 * of_float16, f"{told}: expected more than 3.2 times as many. Do two codes share a byte?"
    codes = np.concatenate([rows[..., : d // 2] & 15, rows[..., : d // 2] >> 4], -1)
    numbers = np.ascontiguousarray(rows[..., d // 2 :]).view("<f2").astype(np.float64)
    step = (x.max(-1, keepdims=True) - x.min(-1, keepdims=True)) / 15
    off = float((np.abs(codes * numbers[..., :1] + numbers[..., 1:2] - x) / step).max())
    assert off < 0.52, f"{told}, but one number is {off:.2f} steps off when it comes back: expected half a step at most"


# --- 08.8 ---------------------------------------------------------------------------------------------------------------


def check_seen(bits, parts, seed):
    rng, config = chance(seed, 19), SHAPE
    n = sum(parts)
    k, v = (rng.standard_normal((n, config.n_kv_heads, config.d_head)).astype(np.float32) for _ in range(2))
    k[:, 0, 3] += 20
    q = 0.5 * rng.standard_normal((n, config.n_heads, config.d_head)).astype(np.float32)
    cache, at = new_cache(config, f"kivi{bits}", layers=1), 0
    for part in parts:
        span, seen = slice(at, at + part), at + part
        expected = mistakes.seen(q[span], k[:seen], v[:seen], bits, at)
        wrong = lambda span=span, seen=seen, at=at: mistakes.seen_mistakes(q[span], k[:seen], v[:seen], bits, at)  # noqa: E731
        what = f"attention of positions {at} to {seen - 1} to a cache in {bits} bits"
        with answers(what, "Each group of 32 positions attends on its own: to all sealed groups before, and to itself in full."):
            cache.append(0, k[span].copy(), v[span].copy())
            found = cache.attend(cache.ops, 0, q[span].copy())
        told = lambda wrong=wrong, expected=expected, found=found, at=at: wrong() | first_alone(expected, found, at)  # noqa: E731
        check_close(found, expected, rtol=2e-3, atol=2e-3, what=what, mistakes=told)
        at = seen


def first_alone(expected, found, at):  # -> {words: what comes out} where queries lie in several groups
    count = GROUP - at % GROUP
    if np.shape(found) != expected.shape or count >= len(expected):
        return {}
    words = "only the queries of the first group are right: a step may have queries in several groups"
    return {words: np.concatenate([expected[:count], np.asarray(found)[count:]])}


@exercise("08.8", points=2, hint=(
    "Queries of one step may lie in several groups of 32. What do all queries of one group have in common?",
    "For each group from open_group(start) on: its queries are positions max(start, group) … min(end, group + GROUP) - 1. They "
    "see `sealed` up to where the group begins, and self.full(layer, group, last).",
    "seen = [np.concatenate([a[:group], b]) for a, b in zip(sealed, self.full(layer, group, last))]; then ops.attention.",
))  # fmt: skip
@given(bits=st.sampled_from([2, 4]), tokens=st.sampled_from([70, 33, 32, 64, 5]), seed=seeds)
def test_a_query_sees_its_own_group_in_full_and_all_before_sealed(bits, tokens, seed):
    check_seen(bits, [tokens], seed)


@exercise("08.8", points=2, hint="A prompt in pieces must see what a whole one sees: at the 32nd token, and at the 33rd.")
@pytest.mark.parametrize("parts", [(31, 1, 1), (40, 24, 6), (32, 32, 1), (33, 31, 40)])
def test_what_is_seen_does_not_depend_on_the_pieces(parts):
    check_seen(2, parts, 20)
