"""Exercise 05.4, a cost-aware policy of eviction: its scores, its hits on small traces, and the computing that it saves."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.cache.policies import LRU, GreedyDual
from minillm.cache.radix import Node, RadixCache
from minillm.course.checks import answers, check_close, exercise

END = -1  # what comes after a prompt, so that all of it may be found
prompts = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=14)


def cost(before, even):
    """The products of a page, and its attention: 1/even for each page before it."""
    return 1.0 + sum(1 / even for _ in range(before))


SCORES = {  # {what is wrong: (uses, pages above the leaf, its pages, age at its last use, age now, even) -> score}
    "the age of now is taken: a leaf starts from the age of its last use, or those that nobody wants never go": (
        lambda uses, above, pages, then, now, even: now + uses * cost(above + pages - 1, even)
    ),
    "the age is left out: what was popular once stays without end": (
        lambda uses, above, pages, then, now, even: uses * cost(above + pages - 1, even)
    ),
    "the uses are left out": lambda uses, above, pages, then, now, even: then + cost(above + pages - 1, even),
    "the cost is left out: it is LFU with an age": lambda uses, above, pages, then, now, even: then + uses,
    "the depth is that of the leaf's first page, and its last one goes": (
        lambda uses, above, pages, then, now, even: then + uses * cost(above, even)
    ),
    "the pages above the leaf are left out": lambda uses, above, pages, then, now, even: then + uses * cost(pages - 1, even),
    "the page itself is counted among those before it": (
        lambda uses, above, pages, then, now, even: then + uses * cost(above + pages, even)
    ),
    "the matrix products are left out: the first page costs something too": (
        lambda uses, above, pages, then, now, even: then + uses * (cost(above + pages - 1, even) - 1)
    ),
    "all pages of the leaf are charged, and one goes": (
        lambda uses, above, pages, then, now, even: then + uses * sum(cost(above + i, even) for i in range(pages))
    ),
    "the uses are added to the cost: each use is worth it once": (
        lambda uses, above, pages, then, now, even: then + uses + cost(above + pages - 1, even)
    ),
    "the uses multiply the attention alone": (
        lambda uses, above, pages, then, now, even: then + 1 + uses * (cost(above + pages - 1, even) - 1)
    ),
    "the age is multiplied too": lambda uses, above, pages, then, now, even: uses * (then + cost(above + pages - 1, even)),
    "the cost lowers the score: the lowest score goes first, and what is costly should stay": (
        lambda uses, above, pages, then, now, even: then - uses * cost(above + pages - 1, even)
    ),
    "attention is multiplied by `even`: at `even` pages before it, it costs 1": (
        lambda uses, above, pages, then, now, even: then + uses * (1 + (above + pages - 1) * even)
    ),
}


@exercise("05.4", points=2, hint=(
    "Two leaves were used as often. One ends a prompt of 100 pages, the other one of 2. Which is cheaper to lose?",
    "Count the pages before the leaf's last one, above it and in it. Products cost 1, attention 1 at `even` such pages. Multiply "
    "by the uses; start from the age that the leaf has kept, not from that of now.",
    "before = node.start + len(node.pages) - 1; the score is node.age + node.uses × (1 + before / even).",
))  # fmt: skip
@given(
    uses=st.integers(2, 9), above=st.integers(3, 40), pages=st.integers(2, 12), then=st.integers(7, 30), more=st.integers(13, 50),
    even=st.sampled_from([1.5, 4.0, 60.0]),
)  # fmt: skip
def test_a_score_is_what_is_lost_with_the_last_page(uses, above, pages, then, more, even):
    # smaller numbers, for which mistakes look alike, are left to the traces below
    facts = uses, above, pages, float(then), float(then + more), even
    right = float(then) + uses * cost(above + pages - 1, even)
    policy, node = GreedyDual(even), Node(pages=list(range(pages)), start=above, uses=uses, last_use=977, age=float(then))
    policy.evicted(float(then + more))
    known = {"it is the last use: that is LRU": 977.0}
    words = f"a leaf of {pages} pages below {above}, used {uses} times, last at age {then} (now {then + more}), even {even:g}"
    with answers(f"the score of {words}", "What of it is a number of pages?"):
        found = float(policy.score(node))
    check_close(found, right, what=f"the score of {words},", mistakes=lambda: known | {w: s(*facts) for w, s in SCORES.items()})


# --- on traces --------------------------------------------------------------------------------------------------------------


def replay(policy, requests, capacity):  # -> (pages found by each request, pages of each that are stored)
    """Serve the requests one after another from a radix tree; a page is a token."""
    pool = BlockPool(capacity, 1)
    cache = RadixCache(pool, policy)
    found, stored = [], []
    for tokens in requests:
        table = BlockTable(pool, cache.match([*tokens, END]))
        found.append(table.length)
        table.append(min(len(tokens) - table.length, pool.num_free))
        stored.append(table.length)
        cache.commit(tokens[: table.length], table.blocks)
        table.free()
    return found, stored


def slowly(requests, capacity, score):  # -> pages found by each request
    """The same over a table of pages, each named by all tokens up to it: no tree, no queue, each victim by a search.

    score(uses, pages above, 1, age at the last use, age now, time of the last use); of equals the first that became a leaf.
    """
    table, age, clock, found = {}, 0.0, 0, []  # page -> [uses, age, time of its use, when it became a leaf]
    for now, tokens in enumerate(requests):
        paths = [tuple(tokens[:i]) for i in range(1, len(tokens) + 1)]
        hit = next((i for i, path in enumerate(paths) if path not in table), len(paths))
        found.append(hit)
        for path in paths[:hit]:
            table[path][0] += 1
        fresh = paths[hit:capacity]
        for i in range(len(fresh)):
            if len(table) + i >= capacity:
                parents = {path[:-1] for path in table} | {path[:-1] for path in fresh}
                leaves = [path for path in table if path not in paths[:hit] and path not in parents]
                scores = {p: score(table[p][0], len(p) - 1, 1, table[p][1], age, table[p][2]) for p in leaves}
                victim = min(leaves, key=lambda path: (scores[path], table[path][3]))
                age, clock = max(age, scores[victim]), clock + 1
                del table[victim]
                if victim[:-1] in table:
                    table[victim[:-1]][3] = clock
        table |= {path: [1, 0.0, 0, 0] for path in fresh}
        clock += 1
        for path in paths[: hit + len(fresh)]:
            table[path][1:] = [age, now, clock]
    return found


def cost_aware(even):
    return lambda uses, above, pages, then, now, used: then + uses * cost(above, even)


def recent(uses, above, pages, then, now, used):
    return used


def mistaken(requests, capacity, even):  # -> {words: pages found by each request}
    """LRU's hits, and those of scores that people write."""
    known = {"it is LRU: the last use alone decides": slowly(requests, capacity, recent)}
    for words, score in SCORES.items():
        known[words] = slowly(requests, capacity, lambda *facts, score=score: score(*facts[:5], even))
    return {words: np.array(hits) for words, hits in known.items()}


@given(requests=prompts, capacity=st.integers(1, 9))
def test_the_oracle_knows_lru(requests, capacity):
    assert replay(LRU(), requests, capacity)[0] == slowly(requests, capacity, recent)


@exercise(
    "05.4", points=2, hint="Do three requests by hand, with room for four pages: which leaf has the lowest score each time?"
)
@given(requests=prompts, capacity=st.integers(1, 9), even=st.sampled_from([0.25, 1.0, 8.0]))
def test_on_a_trace_each_request_finds_what_a_slow_simulation_finds(requests, capacity, even):
    right = np.array(slowly(requests, capacity, cost_aware(even)))
    words = f"the pages that each of {requests} finds, with room for {capacity} and even {even:g},"
    with answers(words, "What sorts must be comparable."):
        found = np.array(replay(GreedyDual(even), requests, capacity)[0])
    check_close(found, right, 0, 0, words, mistakes=lambda: mistaken(requests, capacity, even))


@exercise(
    "05.4", points=1, hint="LRU forgets the long document behind a few strangers. What makes its end worth more than theirs?"
)
def test_it_saves_computing_where_long_and_popular_meets_short_and_strange():
    """Computing, in products of one page: counted, not timed."""
    even, capacity, manual = 4.0, 9, list(range(1, 7))
    requests = [manual if i % 3 == 0 else [100 * i + j for j in range(3)] for i in range(13)]
    retired = [[9000, 9001, 9002, 9003]] * 2  # popular before, and never again

    def work(found):
        return sum(cost(i, even) for hit, tokens in zip(found, retired + requests, strict=True) for i in range(hit, len(tokens)))

    trace = retired + requests
    everything, best = work([0] * len(trace)), work(slowly(trace, capacity, cost_aware(even)))
    lru = work(slowly(trace, capacity, recent))
    mine = work(replay(GreedyDual(even), trace, capacity)[0])
    assert mine == best, (
        f"a manual of 6 pages is asked about again and again between strangers: of {everything:g} page products LRU computes "
        f"{lru:g} and the cost-aware policy {best:g}; found {mine:g}. Does a retired document stay, or the manual go?"
    )
    assert best < 0.8 * lru
