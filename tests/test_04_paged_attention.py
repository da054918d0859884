"""Exercises 04.3 and 04.5: attention that reads pages through a block table, and the slots that new tokens go to.

What is in a page beyond its tokens is NaN here, so a kernel that reads it shows.
"""

import mistakes
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.attention.paged import paged_attention
from minillm.cache.paged import PageStore
from minillm.course.checks import check_close, check_memory, draws, exercise, seeds
from minillm.errors import MiniLLMError

LAYERS, KV_HEADS, D = 2, 2, 4


def paginate(k, v, size, seed, spare=2):  # (n, kv_heads, d) twice -> pages of k, pages of v, table
    """Lay keys and values into blocks in random order. All slots that hold none of them are NaN."""
    used = -(-len(k) // size)
    table = np.random.default_rng(seed).permutation(used + spare)[:used]
    pages = np.full((2, used + spare, size, *k.shape[1:]), np.nan, np.float32)
    for position in range(len(k)):
        block, offset = table[position // size], position % size
        pages[0, block, offset], pages[1, block, offset] = k[position], v[position]
    return *pages, table


def slips_in_a_page(q, k, v, size):  # -> {words: (n_q, heads, d)}
    n_q, (n_k, kv_heads, d) = len(q), k.shape
    parts = [slice(a, min(a + size, n_k)) for a in range(0, n_k, size)]
    cut = [np.concatenate([x[part].reshape(kv_heads, -1, d).transpose(1, 0, 2) for part in parts]) for x in (k, v)]
    place = np.arange(n_k)
    seen = (place < parts[-1].start) | (place <= np.arange(n_k - n_q, n_k)[:, None])
    heads = []
    for h in range(q.shape[1]):
        g = h * kv_heads // q.shape[1]
        weights = np.where(seen, np.exp(q[:, h].astype(np.float64) @ k[:, g].T / d**0.5), 0)
        heads.append(weights / weights.sum(1, keepdims=True) @ v[:, g])
    return {
        "a page is reshaped to (kv_heads, filled, d): that cuts it anew, its axes must change places (transpose)": (
            oracles.attention(q, *cut)
        ),
        "the last block alone is masked: a chunk of queries may span several": np.stack(heads, 1),
    }


def check_paged(q, k, v, size, seed, what, unused=np.nan, longer=False):
    """paged_attention equals the loops of oracles, on pages in random order. longer: the table names all other blocks too."""
    k_pages, v_pages, table = paginate(k, v, size, seed)
    rest = [block for block in range(len(k_pages)) if longer and block not in table]
    k_pages, v_pages = (np.where(np.isnan(pages), np.float32(unused), pages) for pages in (k_pages, v_pages))
    expected = oracles.attention(q, k, v)
    try:
        out = paged_attention(q, k_pages, v_pages, np.array([*table, *rest]), len(k))
    except MiniLLMError as error:
        pytest.fail(f"{what} gave NaN: only slots without a token hold NaN here, so such a slot was read ({error})")
    except (ValueError, IndexError, TypeError) as error:
        pytest.fail(f"{what} stopped with {type(error).__name__}: {error}. Of a tile's block columns.stop - columns.start slots "
                    "are filled; keys and values of a tile are (kv_heads, 1, filled, d)")  # fmt: skip

    def wrong():
        return mistakes.paged(q, k, v, k_pages, v_pages, table) | slips_in_a_page(q, k, v, size)

    check_close(out, expected, what=what, mistakes=wrong)


# --- 04.3 -----------------------------------------------------------------------------------------------------------------


@exercise(
    "04.3",
    points=1,
    hint=(
        "Where in the pool does tile i of this sequence lie? Who knows it?",
        "In block table[i], not in block i. k_pages[table[i]] is (size, kv_heads, d); the heads must come first.",
        "k = k_pages[table[i], :filled].transpose(1, 0, 2)[:, None], v alike; then scores, mask and update as in 03.4.",
    ),
)
def test_a_tile_is_looked_up_in_the_table():
    """Three full blocks of 4, somewhere among five: tile i is in block table[i], the state goes on from tile to tile."""
    q, k, v = draws(1, (1, 2, D), (12, 2, D), (12, 2, D))
    check_paged(q, k, v, 4, seed=0, what="attention of 1 token over 3 full blocks of 4", unused=1)


@exercise(
    "04.3",
    points=1,
    hint=(
        "columns is the tile's slice of the sequence: how many keys are in it?",
        "Only the first columns.stop - columns.start slots of a block hold keys: slice k and v to that many.",
    ),
)
@pytest.mark.parametrize(("n_k", "size"), [(6, 4), (5, 4), (4, 4), (3, 4), (1, 4), (9, 8), (1, 16), (17, 16)])
def test_of_the_last_block_only_what_is_filled_is_read(n_k, size):
    """At a block's edge, one before it and one past it; unused slots are NaN."""
    q, k, v = draws(n_k, (1, 4, D), (n_k, 2, D), (n_k, 2, D))
    check_paged(q, k, v, size, seed=n_k, what=f"attention over {n_k} keys in blocks of {size}")


@exercise("04.3", points=1, hint="columns are places in the sequence: the mask knows nothing of blocks.")
def test_a_chunk_of_queries_does_not_see_its_own_future():
    """Seven new tokens after 2, in blocks of 4: the edges of blocks lie among them."""
    q, k, v = draws(4, (7, 6, D), (9, 2, D), (9, 2, D))
    check_paged(q, k, v, 4, seed=2, what="attention of 7 tokens over 9 keys in blocks of 4")


@exercise(
    "04.3",
    points=1,
    hint=(
        "The queries are the last n_q tokens: later ones see more. mask.scores(scores, rows, columns) hides the rest.",
        "update(m, l, acc, scores, v) folds a tile in; scores are (kv_heads, group, n_q, filled), v (kv_heads, 1, filled, d).",
    ),
)
@given(
    seed=seeds,
    size=st.sampled_from([1, 2, 4, 8]),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3]),
    n_q=st.integers(1, 6),
    cached=st.integers(0, 13),
)
def test_any_chunk_of_queries_over_any_pages_gives_attention(seed, size, kv_heads, group, n_q, cached):
    n_k = n_q + cached
    q, k, v = draws(seed, (n_q, kv_heads * group, D), (n_k, kv_heads, D), (n_k, kv_heads, D))
    heads = f"{kv_heads * group} query heads and {kv_heads} KV heads"
    check_paged(q, k, v, size, seed, what=f"attention of {n_q} tokens over {n_k} keys in blocks of {size}, {heads},")


@exercise("04.3", points=1, hint="k_pages[table[i], :filled] is a view of one page; k_pages[table] copies them all.")
def test_each_page_is_read_where_it_lies():
    """16 pages of 1,024: a tile is 2 MB of keys, all pages are 33. With more pages, who gathers in each would run out of time."""
    q, k_pages, v_pages = draws(7, (1, 4, 128), (16, 1024, 4, 128), (16, 1024, 4, 128))
    table = np.random.default_rng(7).permutation(16)
    why = "Gathering all pages is the copy that paging exists to avoid: a tile is read where it lies."
    check_memory(paged_attention, q, k_pages, v_pages, table, 16 * 1024, most=k_pages.nbytes, why=why)


@exercise("04.3", points=0, hint="Two tables may name one block: reading changes nothing in it.")
def test_two_sequences_may_read_the_same_blocks():
    """A common first block, stored once; the pages are as they were afterwards."""
    k_pages, v_pages = draws(3, (4, 4, 2, D), (4, 4, 2, D))
    before = k_pages.copy(), v_pages.copy()
    for table, n_k, seed in (([2, 0], 7, 1), ([2, 3], 6, 2)):
        q = draws(seed, (2, 4, D))
        k, v = (pages[table].reshape(8, 2, D)[:n_k] for pages in before)
        expected, what = oracles.attention(q, k, v), f"attention over blocks {table}"
        check_close(paged_attention(q, k_pages, v_pages, table, n_k), expected, what=what)
    unchanged = (k_pages == before[0]).all() and (v_pages == before[1]).all()
    assert unchanged, "paged_attention must only read: another sequence owns these blocks too, and they have changed"


@exercise("04.3", points=1, hint="A table may be longer than the sequence: go through the tiles, not through the table.")
def test_a_table_may_be_longer_than_the_sequence():
    """Blocks taken in advance hold nothing yet."""
    q, k, v = draws(5, (1, 2, D), (5, 2, D), (5, 2, D))
    what = "attention over 5 keys in blocks of 4, with a table of 4 blocks of which the last two hold nothing yet,"
    check_paged(q, k, v, 4, seed=1, what=what, longer=True)


@exercise("04.3", points=0, hint="scores and weights are float32 where the queries are.")
def test_pages_of_16_bit_are_read_in_32():
    q, k, v = draws(6, (2, 4, D), (9, 2, D), (9, 2, D))
    k_pages, v_pages, table = paginate(k, v, 4, seed=1)
    rounded = oracles.attention(q, k.astype(np.float16), v.astype(np.float16))
    out = paged_attention(q, k_pages.astype(np.float16), v_pages.astype(np.float16), table, 9)
    assert out.dtype == np.float32, f"pages are float16, queries float32: the result must be float32, found {out.dtype}"
    check_close(out, rounded, rtol=1e-3, atol=1e-3, what="attention over pages of float16")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"table": [0]}, "a table of 1 blocks of 4 cannot hold 7 keys"),
        ({"table": []}, "a table of 0 blocks of 4 cannot hold 7 keys"),
        ({"table": [0, 3]}, "the table names blocks 0 to 3, there are 0 to 2"),
        ({"table": [-1, 0]}, "the table names blocks -1 to 0, there are 0 to 2"),
        ({"q": np.zeros((2, 3, D), np.float32)}, "(2, 3, 4), pages of k (3, 4, 2, 4)"),
        ({"q": np.zeros((2, 4, 6), np.float32)}, "(2, 4, 6), pages of k (3, 4, 2, 4)"),
        ({"v_pages": np.zeros((3, 4, 1, D), np.float32)}, "(3, 4, 2, 4) and of v (3, 4, 1, 4)"),
    ],
)
def test_what_would_read_elsewhere_is_refused_with_both_numbers(change, says):
    pages = np.zeros((3, 4, 2, D), np.float32)
    inputs = {"q": np.zeros((2, 4, D), np.float32), "k_pages": pages, "v_pages": pages, "table": [1, 0], "n_k": 7} | change
    with pytest.raises(MiniLLMError) as error:
        paged_attention(**inputs)
    assert says in str(error.value)


# --- 04.5 -----------------------------------------------------------------------------------------------------------------


def new_store(num_blocks=8, block_size=4, **options):
    return PageStore(LAYERS, KV_HEADS, D, num_blocks, block_size, **options)


def fill(cache, seed, count):
    """Append `count` random tokens to every layer; return what went in, per layer."""
    k, v = draws(seed, (LAYERS, count, KV_HEADS, D), (LAYERS, count, KV_HEADS, D))
    for layer in range(LAYERS):
        cache.append(layer, k[layer].copy(), v[layer].copy())
    return k, v


def check_slots(store, cache, k, v, what):
    """Every token of every layer lies where the table says: looked up here slot by slot."""
    size, blocks, n = store.pool.block_size, cache.table.blocks, k.shape[1]
    assert cache.lengths == [n] * LAYERS, f"lengths of {what} must be {[n] * LAYERS}, found {cache.lengths}"
    for side, layer, i in [(s, layer, i) for s in (0, 1) for layer in range(LAYERS) for i in range(n)]:
        value, pages = (k, v)[side][layer, i], (store.k, store.v)[side]
        block, offset = blocks[i // size], i % size
        if not np.array_equal(pages[layer, block, offset], value):
            found = [
                f"in the pages of {'KV'[other]}, layer {at}, block {b}, offset {o}"
                for other, array in enumerate((store.k, store.v))
                for at, b, o in np.argwhere((array == value).all((-1, -2)))
            ]
            pytest.fail(
                f"{what}: {'KV'[side]} of token {i} in layer {layer} belongs in the pages of {'KV'[side]}, layer {layer}, block "
                f"{block}, offset {offset} (slot {block * size + offset}); it lies {' and '.join(found) or 'nowhere'}."
            )


@exercise(
    "04.5",
    points=1,
    hint=(
        "A slot counts over all blocks of a layer: what shape must the layer's pages have, that slots[i] names one row?",
        "A layer writes to its own pages: store.k[layer] and store.v[layer].",
    ),
)
def test_each_layer_writes_to_its_own_pages():
    store = new_store()
    cache = store.new_cache()
    k, v = draws(1, (3, KV_HEADS, D), (3, KV_HEADS, D))
    cache.append(1, k.copy(), v.copy())
    assert cache.lengths == [0, 3], f"layer 1 took 3 tokens, layer 0 none: lengths must be [0, 3], found {cache.lengths}"
    touched = bool(store.k[0].any() or store.v[0].any())
    more = cache.append(1, k.copy(), v.copy()) or cache.lengths
    assert more == [0, 6], f"layer 1 took 3 tokens and 3 more, layer 0 none: lengths must be [0, 6], found {more}"
    assert not touched, "append(1, …) has written into the pages of layer 0: write to store.k[layer] and store.v[layer] alone"
    block = cache.table.blocks[0]
    for side, pages, right, other in (("K", store.k, k, v), ("V", store.v, v, k)):
        ways = {f"{'VK'[side == 'V']} is written into the pages of {side}": other}
        what = f"{side} of layer 1, block {block},"
        check_close(pages[1, block, :3], right, rtol=0, atol=0, what=what, mistakes=lambda ways=ways: ways)


@exercise("04.5", points=1, hint="The layer holds up to `end` now; the table may have room for more (make_room).")
def test_room_that_was_made_is_not_yet_filled():
    cache, k = new_store().new_cache(), draws(1, (3, KV_HEADS, D))
    cache.make_room(8)
    cache.append(0, k, k)
    found = cache.lengths
    assert found == [3, 0], f"room for 8 tokens was made, layer 0 took 3: lengths must be [3, 0], found {found}"


@exercise(
    "04.5",
    points=2,
    hint=(
        "pages[layer].reshape(-1, kv_heads, d_head) is the same memory, indexed by slot: assigning there writes into the pages.",
        "by_slot[slots] = new, once for keys and once for values; then self.lengths[layer] = end.",
    ),
)
@given(seed=seeds, size=st.sampled_from([1, 2, 4, 8]), pieces=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_tokens_go_to_the_slots_of_their_blocks(seed, size, pieces):
    """Blocks handed out backwards with gaps, tokens in pieces that cross a block's edge and pieces that do not."""
    store = new_store(num_blocks=64, block_size=size)
    hole = store.new_cache()
    cache = store.new_cache()
    parts = []
    for i, n in enumerate(pieces):
        fill(hole, seed + 100 + i, size)  # another sequence's block lies between
        parts.append(fill(cache, seed + i, n))
    k, v = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
    check_slots(store, cache, k, v, what=f"a cache of blocks of {size} fed {pieces} tokens")


@exercise("04.5", points=1, hint="Write to the new tokens' slots only: what lies before, after and beside belongs to others.")
@pytest.mark.parametrize("held", [0, 1, 3, 4, 5])
def test_nothing_but_the_slots_is_written(held):
    store = new_store()
    neighbour, cache = store.new_cache(), store.new_cache()
    theirs = fill(neighbour, 1, 6)
    before = fill(cache, 2, held)
    store.k[:, cache.table.blocks[held // 4 :][:1], held % 4 :] = 7  # what is not written yet
    after = fill(cache, 3, 2)
    both = [np.concatenate(side, axis=1) for side in zip(before, after, strict=True)]
    check_slots(store, cache, *both, what=f"a cache of {held} tokens and 2 more")
    check_slots(store, neighbour, *theirs, what="another sequence's cache")
    used = {(b, i % 4) for c in (neighbour, cache) for i in range(c.length) for b in [c.table.blocks[i // 4]]}
    stray = [(b, i) for b in range(8) for i in range(4) if (b, i) not in used and store.v[:, b, i].any()]
    assert not stray, f"only the slots of new tokens may be written: found values at (block, offset) {stray}"


@exercise("04.5", points=0, hint="Assigning into the array converts: no cast is needed.")
def test_a_store_of_16_bit_rounds_what_it_keeps():
    store = new_store(dtype=np.float16)
    cache = store.new_cache()
    k, v = fill(cache, 1, 5)
    check_slots(store, cache, k.astype(np.float16), v.astype(np.float16), what="a store of float16")
    assert store.nbytes == new_store().nbytes // 2
