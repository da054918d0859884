"""Hit rates on a trace: both caches against a plain simulation, the published figures, no policy above Belady."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.bench.blocks import pool_operations, run, sequence_operations, table
from minillm.bench.replay import POLICIES, by_policy, hits, prefix
from minillm.cache.prefix import HashPrefixCache
from minillm.cache.radix import RadixCache
from minillm.errors import RequestError
from minillm.load.profiles import draw, load_profile
from minillm.load.traces import TraceRequest, read_mooncake

talks = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=25)


def as_requests(turns):
    """Conversation c at length n: page ids that agree just as far as conversation and place do."""
    return [TraceRequest(512 * n, 1, tuple(100 * c + i for i in range(n))) for c, n in turns]


def plain_lru(requests, capacity):
    """Hits in pages of a list of (page, time of last use): what is in use stays, then the oldest goes, the deepest of equals."""
    cache, found = {}, []
    for now, request in enumerate(requests):
        hit = 0
        while hit < len(request.pages) and request.pages[hit] in cache:
            hit += 1
        found.append(hit)
        stored = list(request.pages[:capacity])
        while len(set(cache) | set(stored)) > capacity:
            victim = min((page for page in cache if page not in stored), key=lambda page: (cache[page], -(page % 100)))
            del cache[victim]
        cache.update(dict.fromkeys(stored, now))
    return found


@given(turns=talks, capacity=st.integers(1, 12))
def test_both_caches_hit_what_a_plain_simulation_hits(turns, capacity):
    requests = as_requests(turns)
    tokens = sum(min(512 * hit, r.prompt - 1) for hit, r in zip(plain_lru(requests, capacity), requests, strict=True))
    right = tokens / sum(r.prompt for r in requests)
    assert by_policy(requests, capacity, "lru")["hit_rate_tokens"] == pytest.approx(right)
    assert hits(requests, capacity, HashPrefixCache)["hit_rate_tokens"] == pytest.approx(right)


def test_definitions_of_a_hit_rate():
    requests = [TraceRequest(512, 1, (0,)), TraceRequest(512, 1, (0,)), TraceRequest(1024, 1, (5, 6))]
    found = by_policy(requests, 10, "lru")
    assert found["hit_rate_tokens"] == pytest.approx(511 / 2048) and found["hit_rate_mean"] == pytest.approx(511 / 512 / 3)
    assert found["hit_rate_any"] == pytest.approx(1 / 3)


def test_the_bench_of_the_bookkeeping_counts_what_it_does():
    found = [sequence_operations(make, requests=5) for make in (HashPrefixCache, RadixCache)] + [pool_operations(pairs=5)]
    assert min(found) > 0 and "radix tree" in table(dict.fromkeys(run(), 1.0))


def test_requests_without_pages_are_refused():
    with pytest.raises(RequestError, match="no page ids"):
        prefix([TraceRequest(5, 5)])


def test_on_what_is_drawn_from_the_profile_no_policy_beats_belady_and_the_curve_is_the_traces():
    """All policies on a quarter of the requests, with a quarter of the cache; and the curve on as many as the trace has."""
    requests = draw(load_profile("mooncake_conv"))
    found = prefix(requests[:3000], capacities=(750_000,))
    rates = {row["policy"]: row["hit_rate_tokens"] for row in found["rows"]}
    assert set(rates) == set(POLICIES) and max(rates, key=rates.get) == "belady" and sorted(rates.values())[-2] < rates["belady"]
    found = prefix(requests, capacities=(3_000_000,), policies=("lru",))
    rates = {row["policy"]: row for row in found["rows"]}
    assert found["unlimited"]["hit_rate_tokens"] == pytest.approx(0.374, abs=0.02)
    assert found["unlimited"]["hit_rate_mean"] == pytest.approx(0.409, abs=0.03)
    assert rates["lru"]["of_unlimited"] == pytest.approx(0.37, abs=0.06)


@pytest.mark.slow
@pytest.mark.skipif("MINILLM_MOONCAKE_TRACE" not in os.environ, reason="MINILLM_MOONCAKE_TRACE: path of Mooncake's conversations")
def test_on_the_mooncake_trace_hit_rates_are_those_published():
    requests = read_mooncake(os.environ["MINILLM_MOONCAKE_TRACE"])
    found = prefix(requests, capacities=(3_000_000,), policies=("lru", "belady"))
    assert len(requests) == 12_031
    assert found["unlimited"]["hit_rate_tokens"] == pytest.approx(0.374, abs=0.005)
    assert found["unlimited"]["hit_rate_mean"] == pytest.approx(0.409, abs=0.005)
    lru, belady = found["rows"]
    assert lru["of_unlimited"] == pytest.approx(0.37, abs=0.02) and belady["of_unlimited"] > 0.9  # the paper: LRU 41%
    assert hits(requests, 3_000_000 // 512, HashPrefixCache)["hit_rate_tokens"] == lru["hit_rate_tokens"]
