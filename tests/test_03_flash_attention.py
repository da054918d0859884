"""Exercises of lesson 03: the online softmax and the merge of split-KV. The rest: _mask, _loop, _backward."""

import mistakes_attention as mistakes
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.attention.online_softmax import statistics, update
from minillm.attention.split_kv import merge
from minillm.course.checks import check_close, draws, exercise, seeds

HIDDEN = np.float32(-np.inf)
RISES = st.sampled_from([2, 0, -2, 30, -30])  # how far a later tile's scores lie from the earlier ones
WIDTHS = st.lists(st.integers(1, 5), min_size=1, max_size=4)
NAMES = ("the running maximum m", "the running sum l", "the weighted sum acc")


def fresh(rows, d=1):
    """The state of rows that have seen nothing."""
    return np.full(rows, HIDDEN), np.zeros(rows, np.float32), np.zeros((rows, d), np.float32)


def after(scores, values=None):
    """The state of rows that have seen these scores: by the oracle, in float32."""
    values = np.zeros((scores.shape[1], 1), np.float32) if values is None else values
    return tuple(x.astype(np.float32) for x in oracles.max_sum_acc(scores, values))


def cut(widths):
    """[2, 3] -> slices 0 … 2 and 2 … 5."""
    return [slice(sum(widths[:i]), sum(widths[: i + 1])) for i in range(len(widths))]


def check_state(found, right, where, ways=dict):
    """m, l and acc in turn, as far as there are any; ways() gives other states: {words: (m, l, acc)}."""
    for i in range(len(found)):
        named = lambda i=i: mistakes.of(ways(), found, i)  # noqa: E731
        check_close(found[i], right[i], what=f"{NAMES[i]} {where}", mistakes=named, dtype=np.float32)


# --- 03.1 -----------------------------------------------------------------------------------------------------------


@exercise(
    "03.1",
    points=1,
    hint=(
        "When the maximum rises from m to m', what must become of the exponentials that were summed under m?",
        "exp(x - m') = exp(x - m) · exp(m - m'): the old sum shrinks by one factor per row.",
        "l' = l · exp(m - m') + Σ exp(x - m'), with m' = max(m, max(x)).",
    ),
)
@given(seed=seeds, rows=st.integers(1, 4), before=st.integers(1, 5), n=st.integers(1, 5), rise=RISES)
def test_a_second_piece_is_folded_into_the_statistics_of_the_first(seed, rows, before, n, rise):
    x = draws(seed, (rows, before + n))
    x[:, before:] += np.float32(rise)
    right, (m, l, acc) = oracles.max_sum_acc(x, np.zeros((before + n, 1))), after(x[:, :before])
    found, pieces = statistics(m, l, x[:, before:]), [(x[:, before:], np.zeros((n, 1)))]
    where = f"of {rows} rows after a piece of {before} scores and one of {n} that lies {rise:+d} from it"
    check_state(found, right, where, lambda: mistakes.online((m, l, acc), pieces))


@exercise("03.1", points=1, hint="m starts at -inf and l at 0; after the last piece nothing may tell where the row was cut.")
@given(seed=seeds, rows=st.integers(1, 4), widths=WIDTHS, level=st.sampled_from([0, 500]))
def test_pieces_of_any_size_give_the_statistics_of_the_whole_row(seed, rows, widths, level):
    x = draws(seed, (rows, sum(widths)))
    x += (np.arange(rows, dtype=np.float32) * 300 + level)[:, None]  # no maximum is another row's, and exp(500) is inf
    right = oracles.max_sum_acc(x, np.zeros((sum(widths), 1)))
    m, l, acc = fresh(rows)
    for piece in cut(widths):
        m, l = statistics(m, l, x[:, piece])
    pieces = [(x[:, piece], np.zeros((piece.stop - piece.start, 1))) for piece in cut(widths)]
    where = f"of {rows} rows after pieces of {widths} scores up to {x.max():.0f} (exp of 89 is inf in float32)"
    check_state((m, l), right, where, lambda: mistakes.online((*fresh(rows)[:2], acc), pieces))


@exercise(
    "03.1",
    points=1,
    hint=(
        "A row can have seen nothing, and see nothing again: -inf - (-inf) is NaN.",
        "finite(m') puts 0 where m' is -inf: then exp(-inf - 0) is the 0 that is meant.",
    ),
)
@pytest.mark.parametrize("before", [0, 2])
def test_a_row_of_minus_infinity_leaves_its_statistics_as_they_were(before):
    x = draws(4, (3, 5))
    x[0, before:] = HIDDEN  # sees nothing new
    x[1, before::2] = HIDDEN  # sees some of it
    right = oracles.max_sum_acc(x, np.zeros((5, 1)))
    found = statistics(*after(x[:, :before])[:2], x[:, before:])
    check_state(found, right, f"after {before} scores and a piece that is -inf throughout in row 0 and in part in row 1")


# --- 03.2 -----------------------------------------------------------------------------------------------------------


@exercise(
    "03.2",
    points=2,
    hint=(
        "m and l go as in 03.1. What happens to acc when a later tile has a larger maximum?",
        "acc is a sum of exp(x - m) v: the same factor exp(m - m') that shrinks l shrinks each row of acc.",
        "acc' = exp(m - m')[:, None] * acc + exp(scores - m'[:, None]) @ values.",
    ),
)
@given(seed=seeds, rows=st.integers(1, 4), before=st.integers(1, 5), n=st.integers(1, 5), d=st.integers(1, 4), rise=RISES)
def test_a_second_tile_is_folded_into_the_state_of_the_first(seed, rows, before, n, d, rise):
    scores, values = draws(seed, (rows, before + n), (before + n, d))
    scores[:, before:] += np.float32(rise)
    right, state = oracles.max_sum_acc(scores, values), after(scores[:, :before], values[:before])
    tile = scores[:, before:], values[before:]
    where = f"of {rows} rows after a tile of {before} keys and one of {n} whose scores lie {rise:+d} from it"
    check_state(update(*(x.copy() for x in state), *tile), right, where, lambda: mistakes.online(state, [tile]))


@exercise("03.2", points=1, hint="Nothing may depend on where the row was cut: try two tiles of one key by hand.")
@given(seed=seeds, rows=st.integers(1, 4), widths=WIDTHS, d=st.integers(1, 4))
def test_tiles_of_any_size_give_the_softmax_of_the_whole_row(seed, rows, widths, d):
    scores, values = draws(seed, (rows, sum(widths)), (sum(widths), d))
    scores[:, ::3] += np.float32(40)  # later tiles do raise the maximum
    scores += (np.arange(rows, dtype=np.float32) * 300)[:, None]  # no maximum is another row's
    right = oracles.max_sum_acc(scores, values)
    state = fresh(rows, d)
    for tile in cut(widths):
        state = update(*state, scores[:, tile], values[tile])
    tiles = [(scores[:, tile], values[tile]) for tile in cut(widths)]
    check_state(state, right, f"of {rows} rows after tiles of {widths} keys", lambda: mistakes.online(fresh(rows, d), tiles))
    check_close(state[2] / state[1][:, None], right[2] / right[1][:, None], what=f"acc / l after tiles of {widths} keys")


@exercise(
    "03.2",
    points=1,
    hint=(
        "With a causal mask the early rows of a tile may see none of its keys, while the later rows see some.",
        "Take finite(m') where you subtract: exp(-inf - -inf) would be NaN. Rows must not wait for each other.",
    ),
)
@pytest.mark.parametrize("order", ["hidden first", "hidden last", "hidden throughout"])
def test_a_tile_that_a_row_does_not_see_leaves_its_state_unchanged(order):
    scores, values = draws(6, (4, 6), (6, 3))
    hidden = {"hidden first": slice(0, 3), "hidden last": slice(3, 6), "hidden throughout": slice(0, 6)}[order]
    scores[:2, hidden] = HIDDEN  # of rows 0 and 1
    scores[2, ::2] = HIDDEN  # of row 2 in part, of row 3 nothing
    state, right = fresh(4, 3), oracles.max_sum_acc(scores, values)
    for tile in (slice(0, 3), slice(3, 6)):
        state = update(*state, scores[:, tile], values[tile])
    tiles = [(scores[:, :3], values[:3]), (scores[:, 3:], values[3:])]
    check_state(state, right, f"after two tiles, {order} from rows 0 and 1", lambda: mistakes.online(fresh(4, 3), tiles))


# --- 03.5 -----------------------------------------------------------------------------------------------------------


def parts_of(scores, values, cuts):
    """Attention to each piece of the keys alone, as float32: (splits, rows, heads, d), (splits, rows, heads)."""
    outs, lses = [], []
    for keys in cuts:
        m, l, acc = oracles.max_sum_acc(scores[..., keys].reshape(-1, keys.stop - keys.start), values[keys])
        with np.errstate(divide="ignore"):
            lses.append((m + np.log(l)).reshape(scores.shape[:-1]))
        outs.append((acc / np.where(l, l, 1)[:, None]).reshape(*scores.shape[:-1], -1))
    return np.stack(outs).astype(np.float32), np.stack(lses).astype(np.float32)


def check_merge(scores, values, cuts, where):
    (right, lse), (outs, lses) = (x[0] for x in parts_of(scores, values, [slice(0, len(values))])), parts_of(scores, values, cuts)
    found = merge(outs.copy(), lses.copy())
    for i, (name, expected) in enumerate((("output", right), ("log-sum-exp", lse))):
        ways = lambda i=i: mistakes.of(mistakes.merge(outs, lses), found, i)  # noqa: E731
        check_close(found[i], expected, what=f"merged {name} {where}", mistakes=ways, dtype=np.float32)


@exercise(
    "03.5",
    points=2,
    hint=(
        "Each part's output was divided by a sum of exponentials of its own: what must be undone before parts can be added up?",
        "Multiply each by its sum, exp(lse_s), and divide by the sum of all: O = Σ exp(lse_s) O_s / Σ exp(lse_s), over axis 0.",
        "With weights = exp(lses - top) and total = weights.sum(axis=0): out = (weights[..., None] * outs).sum(axis=0) / total.",
    ),
)
@settings(max_examples=60)
@given(
    seed=seeds, rows=st.integers(1, 3), heads=st.integers(1, 3), d=st.integers(1, 4),
    widths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)  # fmt: skip
def test_parts_over_any_pieces_of_the_keys_merge_into_the_whole(seed, rows, heads, d, widths):
    scores, values = draws(seed, (rows, heads, sum(widths)), (sum(widths), d))
    check_merge(scores * np.float32(2), values, cut(widths), f"of parts over {widths} keys")


@exercise(
    "03.5",
    points=1,
    hint=("exp(500) is inf, and exp(-500) is 0.", "Subtract the largest lse of each row, over the parts, before exp."),
)
@pytest.mark.parametrize("level", [500, -500])
def test_large_scores_neither_overflow_nor_vanish(level):
    scores, values = draws(9, (3, 2, 6), (6, 3))
    scores += np.repeat(np.float32([0, level / 2, level]), 2).reshape(3, 2, 1)  # rows lie far apart
    check_merge(scores, values, cut([2, 3, 1]), f"where scores lie between 0 and {level} (exp of 89 is inf in float32)")


@exercise(
    "03.5",
    points=1,
    hint=(
        "A part that saw no key has lse -inf, so weight exp(-inf) = 0.",
        "Where no part saw any, the maximum is -inf: take finite(...) of it, and divide by 1 where the total is 0.",
    ),
)
def test_parts_that_saw_nothing_count_nothing_and_no_part_at_all_gives_zeros():
    scores, values = draws(10, (4, 2, 6), (6, 3))
    scores[1, :, :3], scores[2, :, 3:], scores[3] = HIDDEN, HIDDEN, HIDDEN
    check_merge(scores, values, cut([3, 3]), "where part 0 saw nothing of row 1, part 1 nothing of row 2, and neither saw row 3")
