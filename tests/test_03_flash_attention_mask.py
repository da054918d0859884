"""Exercise 03.3: the mask as a rule, and what the rule says of whole tiles."""

import mistakes_attention as mistakes
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.attention.mask import Mask, tiles
from minillm.attention.naive import causal_mask
from minillm.course.checks import answers, check_close, draws, exercise, seeds
from minillm.errors import MiniLLMError

SIZES, WINDOWS = st.integers(1, 9), st.sampled_from([None, 1, 2, 3, 20])


def check_visible(n_q, n_k, rows, columns, causal=True, window=None, offset=None):
    """One tile of the mask, against the rule asked for each pair."""
    rule = n_q, n_k, causal, window, n_k - n_q if offset is None else offset
    expected = oracles.visible(*rule)[rows, columns]
    found = Mask(n_q, n_k, causal, window, offset).visible(rows, columns)
    what = (
        f"visible(rows {rows.start}:{rows.stop}, columns {columns.start}:{columns.stop}) of {n_q} queries on {n_k} keys, "
        f"causal={causal}, window={window}, offset={rule[-1]},"
    )

    def ways():
        key, position = np.arange(n_k)[None, columns], np.arange(n_q)[rows, None] + rule[-1]
        clipped = key <= np.maximum(position, 0)
        early = {"a query before all keys is put at the first one, which it then sees: its position is negative": clipped}
        return mistakes.visible(*rule, rows, columns) | (early if causal and window is None else {})

    check_close(found, expected, what=what, mistakes=ways)


def piece(data, n):
    """A slice of 0 … n that is not empty."""
    start = data.draw(st.integers(0, n - 1))
    return slice(start, data.draw(st.integers(start + 1, n)))


@exercise(
    "03.3",
    points=1,
    hint=(
        "Which query is the tile's first row, and which key its first column? (rows.start, columns.start)",
        "Compare a column of positions with a row of keys: np.arange(...)[:, None] with np.arange(...)[None, :].",
        "Query i stands at offset + i, and sees key j where j <= offset + i: itself too.",
    ),
)
@pytest.mark.parametrize("n_q", [3, 8, 1])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (1, 4), (2, 7)])
def test_a_query_sees_itself_and_what_came_before_in_any_tile(n_q, top, left):
    top = min(top, n_q - 1)
    check_visible(n_q, 8, slice(top, min(top + 3, n_q)), slice(left, min(left + 8, 8)))


@exercise(
    "03.3",
    points=1,
    hint=(
        "A window of 1 shows a query its own key alone.",
        "Of the keys up to position, the last `window`: j > position - window.",
    ),
)
@pytest.mark.parametrize("window", [2, 1, 4, 20])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (1, 2), (2, 7)])
def test_a_window_of_w_shows_the_last_w_keys_and_the_own_one_is_among_them(top, left, window):
    check_visible(3, 8, slice(top, 3), slice(left, 8), window=window)


@exercise("03.3", points=1, hint="position = offset + i, whatever the offset; where negative, the row is False throughout.")
@given(n_q=SIZES, n_k=SIZES, window=WINDOWS, offset=st.sampled_from([None, -7, -2, 0, 1, 12]), data=st.data())
def test_the_offset_says_where_the_queries_stand_also_before_all_keys(n_q, n_k, window, offset, data):
    check_visible(3, 5, slice(0, 3), slice(0, 5), offset=-2)  # large enough that no two mistakes agree
    rows, columns = piece(data, n_q), piece(data, n_k)
    check_visible(n_q, n_k, rows, columns, window=window, offset=offset)
    check_visible(n_q, n_k, rows, columns, causal=False, offset=offset)


@exercise("03.3", points=0, hint="Without causal every query sees every key: ones, in the shape of the tile.")
@pytest.mark.parametrize(("n_q", "n_k"), [(3, 5), (5, 3), (1, 1)])
def test_without_causal_all_is_seen(n_q, n_k):
    check_visible(n_q, n_k, slice(0, n_q), slice(0, n_k), causal=False)
    check_visible(n_q, n_k, slice(n_q - 1, n_q), slice(n_k - 1, n_k), causal=False)


@exercise("03.3", points=1, hint="Only the tile's own positions: rows.start … rows.stop against columns.start … columns.stop.")
def test_a_tile_of_a_long_sequence_costs_a_tile():
    rows, columns, n = slice(1, 3), slice(0, 3), 2 * 10**7
    what = f"visible of 2 rows and 3 columns in a mask of {n:,} × {n:,}"
    with answers(what, "Never make the whole mask: it is what FlashAttention does not have room for."):
        found = Mask(n, n).visible(rows, columns)
    check_close(found, oracles.visible(3, 3, True, None, 0)[1:], what=what)


# --- what else a mask answers: no exercise ------------------------------------------------------------------------------


@st.composite
def masks(draw):
    causal = draw(st.booleans())
    window, offset = draw(WINDOWS) if causal else None, draw(st.sampled_from([None, -7, -2, 0, 1, 12]))
    return Mask(draw(st.integers(0, 9)), draw(st.integers(0, 9)), causal, window, offset)


def truth(mask):
    return oracles.visible(mask.n_q, mask.n_k, mask.causal, mask.window, mask.offset)


@given(masks())
def test_pairs_is_what_counting_gives(mask):
    assert mask.pairs() == truth(mask).sum()


@pytest.mark.parametrize(("n", "window", "pairs"), [(8192, None, 8192 * 8193 // 2), (8192, 512, 512 * 8192 - 512 * 511 // 2)])
def test_pairs_of_long_sequences_have_a_closed_form(n, window, pairs):
    assert Mask(n, n, window=window).pairs() == pairs


@given(mask=masks(), block_q=st.integers(1, 4), block_k=st.integers(1, 4))
def test_what_a_mask_says_of_a_tile_is_what_its_entries_say(mask, block_q, block_k):
    everything = truth(mask)
    for rows in tiles(0, mask.n_q, block_q):
        for columns in tiles(0, mask.n_k, block_k):
            tile = everything[rows, columns]
            np.testing.assert_array_equal(mask.visible(rows, columns), tile)
            assert mask.hides_nothing(rows, columns) == tile.all()
            assert mask.hides_all(rows, columns) or tile.any(), "a tile that may be skipped is loaded"
            assert not (mask.hides_all(rows, columns) and tile.any()), "a tile with visible keys is skipped"


@given(mask=masks(), block_q=st.integers(1, 4))
def test_the_span_runs_from_the_first_key_that_is_seen_to_the_last(mask, block_q):
    everything = truth(mask)
    for rows in tiles(0, mask.n_q, block_q):
        span, keys = mask.span(rows), np.flatnonzero(everything[rows].any(axis=0))
        assert 0 <= span.start <= span.stop <= mask.n_k
        if len(keys):
            assert (span.start, span.stop) == (keys[0], keys[-1] + 1)
        else:
            assert span.start == span.stop


@given(seed=seeds, mask=masks())
def test_masked_scores_are_minus_infinity_and_the_rest_untouched(seed, mask):
    scores = draws(seed, (mask.n_q, mask.n_k))
    rows, columns = slice(0, mask.n_q), slice(0, mask.n_k)
    found = mask.scores(scores, rows, columns)
    np.testing.assert_array_equal(found, np.where(truth(mask), scores, -np.inf))
    assert found.dtype == np.float32
    if truth(mask).all() and scores.size:
        assert found is scores, "a tile that is seen throughout is not copied"


def test_the_mask_of_the_naive_module_is_the_same_rule():
    for n_q, n_k in ((1, 1), (3, 3), (2, 5), (5, 2)):
        np.testing.assert_array_equal(causal_mask(n_q, n_k), Mask(n_q, n_k).visible(slice(0, n_q), slice(0, n_k)))


@given(start=st.integers(0, 5), n=st.integers(0, 12), size=st.integers(1, 5))
def test_tiles_cover_the_range_once_and_in_order(start, n, size):
    cut = tiles(start, start + n, size)
    assert [i for tile in cut for i in range(tile.start, tile.stop)] == list(range(start, start + n))
    assert all(tile.stop - tile.start == size for tile in cut[:-1]) and len(cut) == -(-n // size)


@pytest.mark.parametrize(
    ("how", "says"),
    [({"window": 0}, "found 0"), ({"window": -3}, "found -3"), ({"window": 4, "causal": False}, "causal=False")],
)
def test_a_window_of_nothing_or_without_causal_is_refused(how, says):
    with pytest.raises(MiniLLMError, match="a window needs a causal mask and at least 1 key") as error:
        Mask(4, 4, **how)
    assert says in str(error.value)
