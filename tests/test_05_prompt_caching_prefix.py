"""Exercise 05.1, the chain of hashes; and what both prefix caches promise alike."""

import pytest
from block_help import cached, lines_run, state
from hypothesis import example, given
from hypothesis import strategies as st

from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable, swap
from minillm.cache.prefix import HashPrefixCache, chain
from minillm.cache.radix import RadixCache
from minillm.course.checks import answers, exercise
from minillm.errors import BlockError

tokens_of = st.lists(st.integers(0, 3), max_size=13)
sizes = st.sampled_from([1, 2, 4])
CACHES = [HashPrefixCache, RadixCache]

# --- 05.1: hash chain -----------------------------------------------------------------------------------------------------


@exercise(
    "05.1",
    points=1,
    hint="Which block may still change when the prompt grows? One is full only if start + block_size is at most len(tokens).",
)
@given(tokens=tokens_of, size=sizes)
def test_only_full_blocks_have_a_name(tokens, size):
    given = list(tokens)
    with answers(f"the chain over {tokens} in blocks of {size}", "A list has no hash, as it may still change: a tuple has."):
        blocks = [block for _, block in chain(given, size)]
    assert given == tokens, f"the prompt is the caller's: it was {tokens} and is {given} now"
    n, full = len(tokens), len(tokens) // size
    assert len(blocks) == full, f"{n} tokens fill {full} blocks of {size}, found {len(blocks)}: a partial block will change"
    expected = [tuple(tokens[i * size : (i + 1) * size]) for i in range(full)]
    assert blocks == expected, f"blocks of {size} must be {expected}, found {blocks}"


@exercise(
    "05.1",
    points=2,
    hint=(
        "A block of tokens stands after two different beginnings: may its keys and values be shared?",
        "Each name must depend on all that came before. The name of the block before does already: keep it in `parent`.",
        "parent = hasher((parent, block, salt)), with block = tuple(tokens[start : start + block_size]); yield parent, block.",
    ),
)
@given(first=tokens_of, second=tokens_of, size=sizes)
@example(first=[1, 23], second=[12, 3], size=2)  # the same digits
@example(first=[1, 2], second=[2, 1], size=2)
def test_two_names_are_equal_just_when_all_tokens_up_to_there_are(first, second, size):
    for i, (name, _) in enumerate(chain(list(first), size), 1):
        for j, (other, _) in enumerate(chain(list(second), size), 1):
            a, b = first[: i * size], second[: j * size]
            if a == b:
                assert name == other, f"{a} is the same beginning twice and must have one name, found {name} and {other}"
            elif a[-size:] == b[-size:]:
                assert name != other, f"{a} and {b} end alike and begin differently: their last blocks need different names"
            else:
                assert name != other, f"the last blocks of {a} and {b} differ and have the same name"


@exercise("05.1", points=1, hint="The salt goes into each name: tenants must not find each other's prompts.")
def test_salts_share_nothing_and_the_chain_can_be_taken_up_anywhere():
    tokens = [1, 2, 3, 4, 5, 6]
    mine, yours = ([name for name, _ in chain(list(tokens), 2, salt)] for salt in ("me", "you"))
    assert not set(mine) & set(yours), f"the same prompt under two salts must share no name, found {set(mine) & set(yours)}"
    rest = [name for name, _ in chain(tokens[2:], 2, "me", parent=mine[0])]
    assert rest == mine[1:], f"taken up after the first block the chain must go on as before: {mine[1:]}, found {rest}"


@exercise("05.1", points=1, hint="Do not compute what the caller does not ask for: yield.")
def test_the_chain_is_lazy():
    asked = []
    next(chain(list(range(100)), 2, hasher=lambda key: asked.append(key) or len(asked)))
    assert asked, "hasher was given, and not asked for the name: hash is only what it is by default"
    assert len(asked) == 1, f"one name was asked for, {len(asked)} were computed"


# --- both caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", CACHES)
@pytest.mark.parametrize(("asked", "found"), [(0, 0), (1, 0), (4, 0), (5, 4), (8, 4), (9, 8), (12, 8), (13, 12), (20, 12)])
def test_a_hit_is_full_blocks_and_leaves_the_last_token(make, asked, found):
    cache = make(BlockPool(8, 4))
    tokens = list(range(20))
    blocks = cached(cache, tokens[:14])
    assert cache.cached_length(tokens[:asked]) == found
    hit = cache.match(tokens[:asked])
    assert hit == blocks[: found // 4] and all(cache.pool.refs[block] == 1 for block in hit)
    cache.release(hit)
    assert cache.pool.num_free == 8


@pytest.mark.parametrize("make", CACHES)
def test_other_salts_find_nothing(make):
    cache = make(BlockPool(8, 2))
    cached(cache, [1, 2, 3, 4], salt="a")
    assert [cache.cached_length([1, 2, 3, 4, 5], salt) for salt in ("a", "b", None)] == [4, 0, 0]


@pytest.mark.parametrize("hasher", [lambda key: 0, lambda key: hash(key[1])], ids=["one name for all", "no parent"])
def test_a_hash_that_collides_costs_hits_and_never_gives_wrong_ones(hasher):
    cache = HashPrefixCache(BlockPool(16, 2), hasher)
    a, b = [1, 2, 3, 4], [5, 6, 3, 4]
    for tokens in (a, b):
        table = BlockTable(cache.pool)
        table.append(4)
        before = list(table.blocks)
        cache.commit(tokens, table.blocks)
        assert table.blocks == before, "a table was given a block with another past"
    for tokens in (a, b):
        hit = cache.match([*tokens, 9])
        entries = [cache.by_block[block] for block in hit]
        assert [t for entry in entries for t in entry.tokens] == tokens[: 2 * len(hit)]
        assert all(entry.parent is before for entry, before in zip(entries, [None, *entries], strict=False))
        cache.release(hit)


def test_minus_one_and_minus_two_collide_in_python_and_are_told_apart():
    cache = HashPrefixCache(BlockPool(4, 1))
    assert hash(-1) == hash(-2)
    cached(cache, [-1])
    assert (cache.cached_length([-1, 0]), cache.cached_length([-2, 0])) == (1, 0)


@pytest.mark.parametrize("make", CACHES)
def test_what_two_computed_at_the_same_time_is_kept_once(make):
    cache = make(BlockPool(8, 2))
    first, second = BlockTable(cache.pool), BlockTable(cache.pool)
    for table in (first, second):
        table.append(5)
    assert cache.commit([1, 2, 3, 4, 5], first.blocks) == 2
    assert cache.commit([1, 2, 3, 4, 5], second.blocks) == 0
    assert second.blocks[:2] == first.blocks[:2] and second.blocks[2] != first.blocks[2], "only full blocks are shared"
    assert cache.pool.num_free == 8 - 4


@pytest.mark.parametrize("make", CACHES)
def test_a_duplicate_that_a_fork_reads_stays_and_nothing_below_it_is_registered(make):
    cache = make(BlockPool(8, 2))
    cached(cache, [1, 2])
    table = BlockTable(cache.pool)
    table.append(4)
    fork, before = table.fork(), list(table.blocks)
    assert cache.commit([1, 2, 3, 4], table.blocks) == 0 and table.blocks == before
    fork.free()
    assert cache.commit([1, 2, 3, 4], table.blocks) == 1 and table.blocks[0] != before[0] and table.blocks[1] == before[1]
    table.free()
    assert cache.cached_length([1, 2, 3, 4, 5]) == 4


@pytest.mark.parametrize("make", CACHES)
def test_what_is_hit_survives_and_the_rest_goes_oldest_first(make):
    cache = make(BlockPool(6, 2))
    old, new = cached(cache, [1, 2, 3, 4]), cached(cache, [5, 6, 7, 8])
    cache.release(cache.match([1, 2, 3, 4, 0]))  # used again: now it is the newer one
    table = BlockTable(cache.pool)
    table.append(3 * 2)  # two blank blocks and one victim
    assert new[1] in table.blocks and [cache.cached_length([*p, 0]) for p in ([1, 2, 3, 4], [5, 6, 7, 8])] == [4, 2]
    assert cache.match([1, 2, 3, 4, 0]) == old


@pytest.mark.parametrize("make", CACHES)
def test_truncated_into_a_cached_block_and_written_again_no_prefix_hits_the_wrong_tokens(make):
    """nano-vllm's users found a stale hash here."""
    cache = make(BlockPool(8, 4))
    table = BlockTable(cache.pool)
    table.append(8)
    cache.commit(list(range(8)), table.blocks)
    remembered = table.blocks[1]
    table.truncate(6)
    slots, copies = table.append(2)
    assert copies == [(remembered, table.blocks[1])] and remembered != table.blocks[1] and slots[0] == table.blocks[1] * 4 + 2
    assert cache.match([*range(8), 0]) == [table.blocks[0], remembered]


@pytest.mark.parametrize("make", CACHES)
def test_out_to_the_host_and_back_a_prefix_is_found_again_once_committed(make):
    cache, host = make(BlockPool(4, 2)), BlockPool(4, 2)
    table = BlockTable(cache.pool)
    table.append(6)
    fork = table.fork()
    cache.commit([1, 2, 3, 4, 5, 6], table.blocks)
    out = swap([table, fork], host)
    assert len(out) == 3 and host.num_free == 1 and cache.pool.num_free == 4 and table.blocks == fork.blocks
    assert cache.cached_length([1, 2, 3, 4, 5, 6, 7]) == 6, "its blocks on the device are idle, not lost"
    cache.evict(4)
    back = swap([fork, table], cache.pool)
    assert [there for there, _ in back] == [host_block for _, host_block in out] and host.num_free == 4
    fork.free()
    assert cache.commit([1, 2, 3, 4, 5, 6], table.blocks) == 3


@pytest.mark.parametrize("make", CACHES)
def test_misuse_is_named_and_changes_nothing(make):
    cache = make(BlockPool(8, 2))
    cached(cache, [1, 2, 3, 4])
    table, gone = BlockTable(cache.pool), cached(cache, [9, 9])
    table.append(4)
    before = state(cache.pool, table), cache.cached_length([1, 2, 3, 4, 5])
    calls = [
        ("0 owners", lambda: cache.commit([7, 7, 8, 8], [table.blocks[0], cache.pool.blank[0]])),
        ("0 owners", lambda: cache.release(gone)),
        ("already", lambda: make(cache.pool)),
    ]
    for words, call in calls:
        with pytest.raises(BlockError, match=words):
            call()
        assert (state(cache.pool, table), cache.cached_length([1, 2, 3, 4, 5])) == before


@pytest.mark.parametrize("make", CACHES)
def test_a_block_costs_the_same_however_much_is_cached_and_however_long_the_prompt(make):
    def lines(others, length):
        cache = make(BlockPool(1 << 13, 4))
        for number in range(others):
            cached(cache, [number] * 4)
        tokens = [9999] * length
        cached(cache, tokens)
        table = BlockTable(cache.pool, cache.match([*tokens, 0]))
        table.append(4)
        tokens += [8888] * 4
        commit = lines_run(lambda: cache.commit(tokens, table.blocks))
        match = lines_run(lambda: cache.match([*tokens, 0]))
        return commit, match, lines_run(table.free), lines_run(lambda: cache.evict(1))

    few, many = lines(8, 64), lines(2000, 64)
    assert few == many, f"commit, match, free, evict: lines run beside 8 prompts {few}, beside 2,000 {many}"
    short, long = lines(8, 64), lines(8, 64 * 8)
    assert short[0] == long[0] and short[3] == long[3], f"to commit or evict one block, lines run: {short} and {long}"
    assert long[1] < 8.5 * short[1] and long[2] < 8.5 * short[2], "match and free: no more than in proportion to the blocks"
