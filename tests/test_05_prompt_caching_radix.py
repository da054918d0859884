"""Exercises 05.2 and 05.3, the radix tree: match and split. Then how it evicts; what goes first is 05.4, in …_policy.py."""

import pytest
from block_help import cached
from hypothesis import given
from hypothesis import strategies as st

from minillm.cache.block_pool import BlockPool
from minillm.cache.policies import LFU, LRU, Belady, GreedyDual
from minillm.cache.radix import RadixCache, common_pages
from minillm.course.checks import answers, exercise

sizes = st.sampled_from([1, 2, 4])
prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=13), min_size=1, max_size=6)


def new_cache(size=1, num_blocks=64, policy=None):
    return RadixCache(BlockPool(num_blocks, size), policy)


def in_common(a, b, size):
    """Tokens of the whole pages that two lists begin with."""
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n // size * size


def check_found(cache, asked, right, known):
    given = list(asked)
    found = sum(pages for _, pages in cache.path(given)) * cache.page_size
    assert given == asked, f"the prompt is the caller's: path was given {asked}, and left {given} of it"
    assert found == right, f"of {asked} the tree of {known} (pages of {cache.page_size}) holds {right} tokens, path finds {found}"


@given(a=st.lists(st.integers(0, 1), max_size=20), b=st.lists(st.integers(0, 1), max_size=20), size=sizes)
def test_common_pages_is_what_a_loop_finds(a, b, size):
    assert common_pages(a, b, size) * size == in_common(a, b, size)


# --- 05.2: match ----------------------------------------------------------------------------------------------------------


@exercise(
    "05.2",
    points=2,
    hint=(
        "A node holds many pages, and its children hang below the last of them. When may you go on to a child?",
        "children is keyed by (salt, *tokens of the child's first page); common_pages counts how many of its pages agree.",
        "Append (child, same). Stop where same < len(child.pages); else go on: node = child, done += len(child.tokens).",
    ),
)
@given(stem=st.lists(st.integers(0, 2), min_size=1, max_size=9), asked=st.lists(st.integers(0, 2), max_size=14), size=sizes)
def test_a_path_goes_as_far_as_whole_pages_agree(stem, asked, size):
    cache, known = new_cache(size), []
    for length in range(size, 3 * len(stem), 3 * size):  # each prompt goes on where the last one ended: a chain of nodes
        known.append((stem * 4)[:length])
        cached(cache, list(known[-1]))
    for tokens in (asked, (stem * 5)[: len(asked)], *known):
        right = max((in_common(tokens, one[: len(one) // size * size], size) for one in known), default=0)
        check_found(cache, tokens, right, known)


@exercise("05.2", points=1, hint="The path holds every node with the number of its pages that agree; the last may agree in part.")
def test_a_path_names_each_node_and_how_much_of_it_agrees():
    cache = new_cache(size=2)
    for length in (4, 8, 10):
        cached(cache, list(range(length)))
    cases = (([0, 1, 2, 3, 4, 5, 9, 9], [2, 1]), (list(range(12)), [2, 2, 1]), ([0, 1, 9], [1]), ([0], []), ([5, 5], []))
    for asked, right in cases:
        found = [pages for _, pages in cache.path(list(asked))]
        assert found == right, f"nodes of 2, 2 and 1 pages hold 0 … 9: of {asked} they hold {right} pages, found {found}"
    cache, known = new_cache(size=2), ([1, 1], [1, 2], [2, 2])
    for tokens in known:
        cached(cache, tokens)
    for tokens in known:
        found = [pages for _, pages in cache.path(tokens)]
        assert found == [1], f"pages {known} are cached: of {tokens} one page is known, found {found}. A key is a whole page"
    cache = new_cache(size=1)
    for tokens in ([1, 2], [1, 2, 3]):
        cached(cache, tokens)
    found = [pages for _, pages in cache.path([1, 3])]
    assert found == [1], (
        f"a node holds [1, 2] and below it one holds [3]: of [1, 3] one token is known, found pages {found}. "
        "The 3 below follows a 2: go on only from a node that agrees whole"
    )


@exercise("05.2", points=1, hint="The salt is part of every key.")
def test_a_path_is_for_its_salt_alone():
    cache = new_cache()
    cached(cache, [1, 2, 3], salt="a")
    for salt, right in (("a", 3), ("b", 0), (None, 0)):
        found = sum(pages for _, pages in cache.path([1, 2, 3], salt))
        assert found == right, f"[1, 2, 3] was cached with salt 'a': with salt {salt!r} {right} pages are found, not {found}"


# --- 05.3: split ----------------------------------------------------------------------------------------------------------


def shape(node):
    """A tree as nested pairs: (tokens, children in order)."""
    return node.tokens, [shape(child) for _, child in sorted(node.children.items())]


@exercise(
    "05.3",
    points=2,
    hint=(
        "One node hung under its parent by its first page. Who hangs where afterwards, and under which key?",
        "The new node takes the old one's place. Of the old one key, tokens, pages and start change; then three links.",
        "node.key = (node.key[0], *node.tokens[cut : cut + page_size]). Links: parent to upper, upper to node, node to upper.",
    ),
)
def test_a_split_leaves_a_tree():
    cache = new_cache(size=2)
    blocks = cached(cache, [1, 1, 2, 2, 3, 3, 4, 4])
    (lower,) = cache.root.children.values()
    upper = cache.split(lower, 1)
    top, below = dict(cache.root.children), dict(upper.children)
    assert list(top) == [(None, 1, 1)] and top[(None, 1, 1)] is upper, "the root must have the new upper node for its only child"
    assert list(below) == [(None, 2, 2)], f"below it hangs the old node under the key (None, 2, 2), found {list(below)}"
    for words, found, right in [
        ("tokens of the upper node", upper.tokens, [1, 1]),
        ("tokens of the lower node", lower.tokens, [2, 2, 3, 3, 4, 4]),
        ("pages of the upper node", upper.pages, blocks[:1]),
        ("pages of the lower node", lower.pages, blocks[1:]),
        ("start of the lower node, in pages", lower.start, 1),
        ("key of the lower node", lower.key, (None, 2, 2)),
    ]:
        assert found == right, f"{words}: must be {right}, found {found}"
    assert lower.parent is upper, "the lower node's parent must be the upper one"
    assert upper.parent is cache.root, "the upper node's parent must be the old parent"
    middle = cache.split(lower, 1)
    starts = [node.start for node in (upper, middle, lower)]
    assert starts == [0, 1, 2], f"cut again after a page, three nodes must start at pages 0, 1 and 2, found {starts}"
    cache = new_cache()
    cached(cache, [1, 2, 3], salt="a")
    lower = cache.root.children["a", 1]
    upper = cache.split(lower, 1)
    assert list(upper.children) == [("a", 2)], f"with salt 'a' the lower node's key is ('a', 2), found {list(upper.children)}"


@exercise("05.3", points=1, hint="After any number of splits every prompt is found as before.")
@given(known=prompts, size=sizes)
def test_prompts_that_part_midway_are_all_found(known, size):
    cache = new_cache(size, num_blocks=128)
    for tokens in known:
        with answers(f"caching {known} one by one (pages of {size})", "Does the lower node still hold what the upper one has?"):
            blocks = cached(cache, tokens)
        assert len(blocks) >= len(tokens) // size
    for tokens in known:
        check_found(cache, tokens, len(tokens) // size * size, known)
    distinct = {tuple(tokens[:end]) for tokens in known for end in range(size, len(tokens) + 1, size)}
    kept = len(cache.pool.kept)
    assert kept == len(distinct), f"{known} have {len(distinct)} different beginnings of whole pages, {kept} pages are kept"
    with answers("evict(128)", "Does the lower node still hold what the upper one has?"):
        freed = cache.evict(128)
    assert freed == kept, f"nothing is in use, so all {kept} pages can go, found {freed}: do parents know their children?"
    assert not cache.root.children, f"an empty tree has no nodes, found {shape(cache.root)}"


@exercise("05.3", points=1, hint="match asks for a split where a prompt leaves a node midway: split(node, pages that agree).")
def test_a_match_that_ends_midway_splits_there():
    cache = new_cache()
    cached(cache, [1, 2, 3, 4])
    cache.release(cache.match([1, 2, 9]))
    found, right = shape(cache.root), ([], [([1, 2], [([3, 4], [])])])
    assert found == right, f"[1, 2, 9] leaves [1, 2, 3, 4] after two pages: one node becomes two, {right}, found {found}"


# --- evict ----------------------------------------------------------------------------------------------------------


def lengths(cache, known):
    return [cache.cached_length([*tokens, 99]) for tokens in known]


def test_what_is_in_use_stays():
    cache = new_cache()
    known = [[1, 2, 3], [4, 5, 6]]
    for tokens in known:
        cached(cache, tokens)
    mine = cache.match([1, 2, 3, 99])
    freed = cache.evict(6)
    assert cache.pool.kept >= set(mine), f"pages {mine} are in use: they must not be evicted, {sorted(cache.pool.kept)} are left"
    assert freed == 3, f"3 pages are idle and 3 in use: evict(6) must free 3, it says {freed}"
    cache.release(mine)
    freed = cache.evict(6)
    assert freed == 3, f"now these 3 are idle too: evict(6) must free 3, it says {freed}"


def test_leaves_go_first_the_least_recently_used_of_them():
    cache = new_cache()
    known = [[1, 2, 3, 4], [1, 2, 5], [7, 8]]
    for tokens in known:
        cached(cache, tokens)
    for n, right in enumerate([[3, 3, 2], [2, 3, 2], [2, 2, 2], [2, 2, 1], [2, 2, 0], [1, 1, 0], [0, 0, 0]], 1):
        if n == 4:
            cache.release(cache.match([1, 2, 99]))  # now 7, 8 is the oldest
        freed = cache.evict(1)
        found = lengths(cache, known)
        assert freed == 1, f"there were idle pages: evict(1) must free one, it says {freed}"
        assert found == right, f"after {n} evictions of one page {known} must be cached up to {right}, found {found}"


@given(known=prompts, n=st.integers(0, 30), size=sizes)
def test_evict_frees_n_pages_or_all_there_are(known, n, size):
    cache = new_cache(size)
    for tokens in known:
        cached(cache, tokens)
    idle, right = len(cache.pool.idle), min(n, len(cache.pool.idle))
    freed = cache.evict(n)
    assert freed == right, f"{idle} pages are idle: evict({n}) must free {right}, it says {freed}"
    left = len(cache.pool.idle)
    assert left == idle - right, f"of {idle} idle pages evict({n}) must leave {idle - right}, found {left}"


def test_the_policy_hears_of_every_victim():
    heard = []

    class Listening(LRU):
        def evicted(self, score):
            heard.append(score)

    cache = new_cache(policy=Listening())
    cached(cache, [1, 2, 3])
    cached(cache, [4])
    cache.evict(4)
    assert len(heard) == 4, f"4 pages were evicted, the policy heard of {len(heard)}"
    assert heard == sorted(heard), f"the smallest score goes first, found {heard}"


# --- policies -------------------------------------------------------------------------------------------------------------


def first_victim(policy, uses):
    """Cache [1], [2], [3]; use them in this order; who goes first?"""
    cache = new_cache(policy=policy)
    for token in (1, 2, 3):
        cached(cache, [token])
    for token in uses:
        cache.release(cache.match([token, 99]))
    cache.evict(1)
    return next(token for token in (1, 2, 3) if not cache.cached_length([token, 99]))


def test_policies_choose_their_victims():
    assert first_victim(LRU(), [1, 2, 3, 1, 1, 2]) == 3
    assert first_victim(LFU(), [2, 2, 1, 1, 3]) == 3, "used once, if most recently"
    assert first_victim(LFU(), []) == 1, "of equals the least recent"
    future = Belady([[1], [2], [3], [2], [1], [3]])
    future.now = 2
    assert first_victim(future, []) == 3
    future.now = 3
    assert first_victim(future, []) == 2, "2 is never wanted again"


def test_use_lasts_until_the_owner_lets_go():
    cache = new_cache()
    cached(cache, [1])
    long = cache.match([1, 99])
    cached(cache, [2])
    cache.release(long)
    cache.evict(1)
    assert lengths(cache, [[1], [2]]) == [1, 0]


def test_cost_keeps_the_deep_and_age_lets_fame_fade():
    deep, shallow = list(range(10)), [77]
    cache = new_cache(policy=GreedyDual(even=2))
    cached(cache, deep)
    cached(cache, shallow)
    cache.evict(1)
    assert lengths(cache, [deep, shallow]) == [10, 0]
    for number in range(100, 160):  # strangers come and go; at last even the deep one is the least
        cached(cache, [number])
        cache.evict(1)
    assert lengths(cache, [deep])[0] < 10


def test_a_leaf_that_lost_its_end_is_no_younger():
    """It was: each cut made what is left look just used, and all leaves were cut in turn."""
    old, new = [1, 2, 3, 4], [11, 12, 13, 14]
    cache = new_cache(policy=GreedyDual(even=1e9))  # pages cost the same
    cached(cache, old)
    cache.evict(1)
    cached(cache, new)
    cache.evict(3)
    assert lengths(cache, [old, new]) == [0, 4]


@pytest.mark.parametrize("policy", [LRU, LFU])
def test_places_in_the_queue_do_not_pile_up_and_none_is_lost(policy):
    cache = new_cache(policy=policy())
    for other in range(10, 40):
        cached(cache, [other])
    for _ in range(1000):
        cached(cache, [1, 2, 3])
    assert len(cache.queue) < 2 * 33 + 64 + 1
    assert cache.evict(33) == 33
