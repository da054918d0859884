"""Exercises 05.5 and 05.6: what of a prompt may come from a cache, and the definitions of a hit rate."""

from fractions import Fraction

import pytest
from block_help import cached
from hypothesis import example, given
from hypothesis import strategies as st

from minillm.cache.block_pool import BlockPool
from minillm.cache.prefix import HashPrefixCache
from minillm.cache.prefix_cache import matchable
from minillm.cache.radix import RadixCache
from minillm.course.checks import answers, check_close, exercise
from minillm.errors import MiniLLMError
from minillm.metrics.hit_rate import hit_rates

# --- 05.5: n - 1 --------------------------------------------------------------------------------------------------------------


def wrong_lengths(n, size):  # -> {tokens that people take: why they are wrong}
    full = n // size * size
    return {
        n: "all of it, so nothing is left to compute, and no logits come out to draw the first token from",
        full: "all full blocks, so where the prompt ends with one nothing is left to compute, and no logits come out",
        max(0, full - 1): "one token off the full blocks: take it off first, then round",
        n - 1: "all but the last token, but the cache knows full blocks only",
        max(0, full - size): "a block less than are full, also where the last tokens are in none",
        -(-max(0, n - 1) // size) * size: "rounded up: a block that is not full is not in the cache",
    }


@exercise("05.5", points=1, hint=(
    "The whole prompt is cached. What does the model need to draw the next token, and is that in the cache?",
    "Take the last token away first. Of what is left, only whole blocks can be found: round down.",
    "max(0, n - 1) // block_size * block_size tokens, from the beginning, as a list.",
))  # fmt: skip
@given(n=st.integers(0, 50), size=st.integers(1, 17))
@example(n=40, size=16)
@example(n=0, size=4)
@example(n=1, size=1)
@example(n=32, size=16)
@example(n=33, size=16)
def test_full_blocks_and_never_the_last_token(n, size):
    prompt = list(range(70, 70 + n))
    length = 0
    while length + size < n:  # one more block, and at least a token after it
        length += size
    right, given_ = prompt[:length], list(prompt)
    story = f"of a prompt of {n} tokens, in blocks of {size},"
    with answers(f"{story} a list", "Which prompts are shorter than a block?"):
        found = matchable(given_, size)
    assert isinstance(found, list), f"{story} a list of tokens may be matched, found {found!r}"
    why = wrong_lengths(n, size).get(len(found), "count again") if len(found) != length else "these are others: take the first"
    assert found == right, f"{story} the first {length} tokens may be matched, found {len(found)}: {why}"
    assert given_ == prompt, f"{story} the prompt itself was changed: it is still needed"


@exercise("05.5", points=1, hint="A prompt of exactly one block, sent twice: what must the second request compute?")
@pytest.mark.parametrize("make", [HashPrefixCache, RadixCache])
def test_a_prompt_that_comes_again_leaves_a_token_to_compute(make):
    for n, right in ((1, 0), (3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (12, 8)):
        prompt, cache = list(range(n)), make(BlockPool(8, 4))
        cached(cache, prompt)
        blocks = cache.match(list(prompt))
        found = len(blocks) * 4
        assert found < n, (
            f"{n} tokens, blocks of 4: {found} are found the second time, so no token goes in and no logits come out"
        )
        assert found == right, f"{n} tokens, blocks of 4: {right} can be found the second time, {found} are"
        cache.release(blocks)


# --- 05.6: hit rates ------------------------------------------------------------------------------------------------------------

requests = st.lists(st.tuples(st.integers(1, 2000), st.sampled_from([0, 0, 1, 3, 7, 10])), min_size=1, max_size=12)


def exactly(found, prompts):  # -> the three rates, as fractions of whole numbers
    shares = [Fraction(hit, n) for hit, n in zip(found, prompts, strict=True)]
    weighted = sum(share * n for share, n in zip(shares, prompts, strict=True)) / sum(prompts)
    return weighted, sum(shares) / len(shares), Fraction(sum(1 for hit in found if hit), len(found))


def mistaken_rates(found, prompts):  # -> {words: rate}
    hits, n = [hit for hit in found if hit], len(found)
    tokens, mean, any_hit = map(float, exactly(found, prompts))
    return {
        "it is the rate over all tokens, in which long prompts weigh more": tokens,
        "it is the mean over requests of their own shares": mean,
        "it is the share of requests with any hit": any_hit,
        "whole numbers are divided (//): a share below 1 is 0 then": float(sum(map(int.__floordiv__, found, prompts))),
        "only requests with a hit are averaged: a miss has a share too, 0": mean * n / len(hits) if hits else 0.0,
        "only prompts with a hit are counted: the others were computed too": sum(found)
        / max(1, sum(p for hit, p in zip(found, prompts, strict=True) if hit)),
        "only prompts that were found to the last token but one are counted": sum(
            hit >= p - 1 for hit, p in zip(found, prompts, strict=True)
        )
        / n,
        "tokens found are divided by requests: that is a number of tokens, not a rate": sum(found) / n,
        "found and computed are set against each other: it is of all that came": sum(found) / max(1, sum(prompts) - sum(found)),
    } | {
        f"it is a percentage, a share of 1 is wanted (rate {i})": 100 * rate for i, rate in enumerate((tokens, mean, any_hit), 1)
    }


NAMES = "of tokens", "as a mean over requests", "of requests with any hit"


def check_rates(found, prompts, which):
    right = [float(rate) for rate in exactly(found, prompts)]
    words = f"for {found} of {prompts} tokens found"
    with answers(f"the hit rates {words}", "Each request has its own place in both lists."):
        rates = hit_rates(list(found), list(prompts))
    assert isinstance(rates, tuple | list) and len(rates) == 3, f"the hit rates {words} are three numbers, found {rates!r}"
    for i in which:
        what = f"the hit rate {NAMES[i]} {words}"
        check_close(rates[i], right[i], what=what, mistakes=lambda: mistaken_rates(found, prompts))


@exercise("05.6", points=1, hint=(
    "One long prompt is missed and ten short ones are found. Has the server saved much work? Are its users content?",
    "For the work, add up tokens before you divide. For the users, divide for each request before you take the mean.",
    "tokens = sum(found) / sum(prompts); mean = Σ (hit / n) / requests; any = requests with hit > 0, over requests.",
))  # fmt: skip
@given(requests=requests)
@example(requests=[(10_000, 0), (100, 9), (300, 3)])
@example(requests=[(1, 0)])
def test_by_tokens_and_by_requests(requests):
    check_rates([n * tenths // 10 for n, tenths in requests], [n for n, _ in requests], (0, 1))


@exercise("05.6", points=1, hint="A request either finds something or it does not: count them.")
@given(requests=requests)
@example(requests=[(100, 0), (100, 9), (100, 10)])
def test_requests_that_found_anything(requests):
    check_rates([n * tenths // 10 for n, tenths in requests], [n for n, _ in requests], (2,))


def test_without_requests_there_is_no_rate():
    for found, prompts in (([], []), ([1], [2, 3])):
        with pytest.raises(MiniLLMError, match=f"found {len(found)} for {len(prompts)}"):
            hit_rates(found, prompts)
