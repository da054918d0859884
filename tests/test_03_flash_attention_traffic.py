"""What attention moves: the counter counts, and its counts equal the formulas to the element."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minillm.attention import traffic_formulas as formulas
from minillm.attention.flash import flash1_head, flash2_head
from minillm.attention.mask import Mask
from minillm.attention.naive import attention_head
from minillm.attention.traffic import Traffic, counted, measure, standard_head, tile_walk
from minillm.attention.traffic_formulas import head_traffic, rows_per_tile
from minillm.costs import attention as cards
from minillm.course.checks import answers, check_close, draws, exercise, seeds
from minillm.errors import MiniLLMError

HEADS = (flash1_head, flash2_head, standard_head)
FLASH = (flash1_head, flash2_head)
sizes = {"n_q": st.integers(1, 13), "n_k": st.integers(0, 13), "d": st.integers(1, 5)}
blocks = {"block_q": st.integers(1, 15), "block_k": st.integers(1, 15)}  # tails, and tiles larger than all there is


# --- the counter ----------------------------------------------------------------------------------------------------


def test_a_slice_read_is_a_load_and_a_slice_written_a_store():
    traffic = Traffic()
    x = traffic.slow("x", np.arange(12, dtype=np.float16).reshape(4, 3))
    tile = x[1:3]
    assert (traffic.loads, traffic.stores, traffic.bytes) == (6, 0, 12)
    x[0:1] = tile[:1] * 2
    assert (traffic.loads, traffic.stores, traffic.bytes) == (6, 3, 18)
    assert x.data[0].tolist() == [6, 8, 10]
    tile[:] = 0
    assert x.data[1].tolist() == [3, 4, 5], "what was loaded is a copy: only a store changes slow memory"


def test_fast_memory_holds_what_is_alive_and_views_are_free():
    traffic = Traffic()
    tile = traffic.slow("x", np.ones((4, 3), np.float32))[0:4]
    assert traffic.held == 12
    view = tile.T[1:]
    assert traffic.held == 12
    product = tile @ tile.T
    assert (traffic.held, traffic.peak) == (12 + 16, 28)
    del tile
    assert traffic.held == 28, "the view keeps its tile alive"
    del view
    assert traffic.held == 16
    chosen = np.where(product > 1, product, np.float32(0))  # no ufunc; the comparison lives for a moment
    assert (traffic.held, traffic.peak) == (32, 48)
    assert [type(x).__name__ for x in (chosen, np.zeros_like(chosen[:, 0]), chosen.astype(float))] == ["Fast"] * 3
    peak = traffic.peak
    del product
    chosen = chosen[:1] + 1
    assert (traffic.held, traffic.peak) == (4, peak), "the peak stays when memory is given back"
    del chosen
    assert traffic.held == 0


def test_slow_memory_does_not_compute():
    x = Traffic().slow("x", np.ones((2, 2), np.float32))
    for compute in (lambda: x * 2, lambda: np.exp(x), lambda: np.ones((2, 2)) @ x, lambda: np.where(x, 1, 0), lambda: np.sum(x)):
        with pytest.raises(TypeError):
            compute()


def test_room_made_in_slow_memory_is_no_traffic():
    traffic = Traffic()
    zeros = np.zeros_like(traffic.slow("x", np.ones((2, 2), np.float32)))
    assert (traffic.moved, traffic.held, zeros.data.tolist()) == (0, 0, [[0, 0], [0, 0]])
    zeros[0:1] = 1
    assert traffic.stores == 2


def test_products_and_elementwise_operations_are_counted_apart():
    traffic = Traffic()
    x = traffic.slow("x", np.ones((4, 3), np.float32))[0:4]
    (x @ x.T).max(axis=1)
    same = x
    x *= 2
    assert x is same, "what is done in place takes no room"
    assert (traffic.flops, dict(traffic.operations)) == (2 * 4 * 4 * 3, {"maximum": 16, "multiply": 12})


@pytest.mark.parametrize(
    ("head", "loads", "stores"),
    [
        # K, V: 12. In each of 2 × 2 tiles q 2, out 2, m 1, l 1 come in and out 2, m 1, l 1 go out. Then m, l in and lse out.
        (flash1_head, 12 + 4 * 6 + 2 * 2, 4 * 4 + 2),
        (flash2_head, 4 + 2 * 12, 4 + 2),  # q once, K and V for each of 2 row tiles; out and lse once
        (standard_head, 6 + 4 + 6 + 6 + 6, 6 + 6 + 4),  # k, q, S, P, v; S, P, out
    ],
)
def test_two_queries_and_three_keys_by_hand(head, loads, stores):
    found = measure(head, n_q=2, n_k=3, d=2, block_q=1, block_k=2)
    assert (found.loads, found.stores, found.bytes) == (loads, stores, 4 * (loads + stores))


# --- counts equal formulas ------------------------------------------------------------------------------------------


@given(**sizes, **blocks, causal=st.booleans())
@example(n_q=8, n_k=8, d=4, block_q=3, block_k=5, causal=True)  # both tails
@example(n_q=7, n_k=3, d=2, block_q=2, block_k=2, causal=True)  # queries that stand before all keys
def test_what_is_moved_equals_the_formula(n_q, n_k, d, block_q, block_k, causal):
    size = (n_q, n_k, d, block_q, block_k, causal)
    assert measure(flash1_head, *size).moved == formulas.flash1_moved(*size)
    assert measure(flash2_head, *size).moved == formulas.flash2_moved(*size)
    assert measure(standard_head, *size).moved == formulas.standard_moved(n_q, n_k, d)


@given(**sizes, **blocks)
def test_without_a_mask_the_formulas_are_those_of_the_papers(n_q, n_k, d, block_q, block_k):
    t_r, t_c = -(-n_q // block_q), -(-n_k // block_k)
    assert formulas.flash1_moved(n_q, n_k, d, block_q, block_k) == 2 * n_k * d + 3 * n_q * d * t_c + (4 * n_q * t_c + 3 * n_q)
    assert formulas.flash2_moved(n_q, n_k, d, block_q, block_k) == 2 * n_q * d + 2 * n_k * d * t_r + n_q
    assert formulas.standard_moved(n_q, n_q, d) == 4 * n_q * d + 4 * n_q**2


@given(**sizes, **blocks)
def test_flash_attention_2_scales_the_output_once_per_tile_and_once_at_the_end(n_q, n_k, d, block_q, block_k):
    first, second = (measure(head, n_q, n_k, d, block_q, block_k).operations for head in FLASH)
    passes = -(-n_k // block_k)
    assert first["divide"] == passes * n_q * d
    assert second["divide"] == n_q * d
    assert first["multiply"] + first["divide"] == formulas.flash1_scalings(n_q, n_k, d, block_k)
    assert second["multiply"] + second["divide"] == formulas.flash2_scalings(n_q, n_k, d, block_k)


def test_flash_attention_2_does_less_that_is_no_matrix_product():
    first, second = (measure(head, 256, 256, 16, 32, 32) for head in FLASH)
    assert first.flops == second.flops == formulas.matmul_flops(256, 256, 16)
    assert sum(second.operations.values()) < 0.75 * sum(first.operations.values())


# --- 03.7 -----------------------------------------------------------------------------------------------------------


def tiles_by_hand(n_q, n_k, d, block_q, causal):
    """Elements read and written, with every visible pair of query and key looked at."""
    read = written = 0
    for start in range(0, n_q, block_q):
        rows = range(start, min(start + block_q, n_q))
        seen = {key for row in rows for key in range(n_k) if not causal or key <= row + n_k - n_q}
        read += len(rows) * d + len(seen) * d + len(seen) * d  # q, then K and V
        written += len(rows) * d + len(rows)  # out, and a log-sum-exp for each row
    return read, written


def check_bytes(arguments, expected, width, ways, what):
    both = lambda pair: np.array(pair, np.float64) * width  # noqa: E731
    ask = "It is two numbers: bytes read, bytes written."
    with answers(what, ask):
        found = head_traffic(*arguments, bytes_per_value=width)
    assert isinstance(found, tuple | list) and len(found) == 2, f"{what} must be two numbers, found {found}. {ask}"
    named = lambda: {  # noqa: E731
        "elements are counted, not bytes": np.array(expected, np.float64),
        "what is read and what is written change places": both(expected[::-1]),
        **{words: both(pair) for words, pair in ways.items()},
    }
    pair = np.array([float(x) for x in found])
    check_close(pair, both(expected), rtol=1e-12, what=f"{what} (bytes read, bytes written)", mistakes=named)


@exercise(
    "03.7",
    points=1,
    hint=(
        "Of each kernel: what must it fetch before it can compute, and what does it leave for the next one?",
        "Three kernels: Q, K in and S out; S in and P out; P, V in and O out. With tiles there is no S and no P to move.",
        "Textbook: read (n_q + 2 n_k) d + 2 n_q n_k, written n_q d + 2 n_q n_k, each times bytes_per_value.",
    ),
)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n_q", "n_k", "d", "width"), [(8, 8, 4, 2), (5, 13, 3, 4), (1, 900, 64, 1), (1000, 1000, 64, 2)])
def test_three_kernels_move_the_matrix_four_times(n_q, n_k, d, width, causal):
    read, written, matrix = (n_q + 2 * n_k) * d, n_q * d, n_q * n_k
    ways = {
        "scores and weights are not counted: between kernels they lie in slow memory": (read, written),
        "one matrix goes out and comes in: there are two, scores and weights": (read + matrix, written + matrix),
        "scores and weights are written and never read": (read, written + 2 * matrix),
        "hidden scores are left out: these kernels move the whole matrix": (
            read + n_q * (n_q + 1), written + n_q * (n_q + 1)),
        "keys and values are counted for n_q tokens: there are n_k": (3 * n_q * d + 2 * matrix, written + 2 * matrix),
        "K is read and V is not": (read - n_k * d + 2 * matrix, written + 2 * matrix),
        "O is not written": (read + 2 * matrix, 2 * matrix),
    }  # fmt: skip
    what = f"head_traffic({n_q}, {n_k}, {d}, None, {causal}, {width})"
    check_bytes((n_q, n_k, d, None, causal), (read + 2 * matrix, written + 2 * matrix), width, ways, what)


@exercise("03.7", points=2, hint="Tiles: sum sees(n_q, n_k, stop, causal) over row_tiles; K and V of so many keys are read.")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("n_q", "n_k", "d", "block_q", "width"),
    [
        (12, 12, 4, 4, 2),
        (10, 10, 3, 4, 2),
        (3, 9, 5, 2, 4),
        (7, 3, 2, 2, 1),
        (5, 9, 4, 64, 2),
        (1, 40, 8, 16, 2),
        (6, 0, 4, 4, 2),
    ],
)
def test_tiles_read_the_keys_that_their_rows_see(n_q, n_k, d, block_q, width, causal):
    expected = read, written = tiles_by_hand(n_q, n_k, d, block_q, causal)
    starts = range(0, n_q, block_q)

    def ways():
        kv = read - n_q * d
        first = sum(max(0, min(n_k, n_k - n_q + start + 1)) if causal else n_k for start in starts)
        whole = sum(min(n_k, max(0, n_k - n_q + start + block_q)) if causal else n_k for start in starts)
        return {
            "K and V are read once in all: they pass by for each tile of Q": (n_q * d + 2 * n_k * d, written),
            "keys that no row of the tile sees are read as well: a causal mask spares them": (
                n_q * d + 2 * n_k * d * len(starts), written),
            "the last tile is left out where it is shorter": (n_q * d + 2 * n_k * d * (n_q // block_q), written),
            "a causal mask is taken to spare half of all keys: a tile reads as far as its last row sees": (
                n_q * d + 2 * d * (n_k * len(starts) // 2), written),
            "the keys are those that the first row of a tile sees: the last row sees more": (n_q * d + 2 * first * d, written),
            "a shorter last tile is taken for a whole one": (len(starts) * block_q * d + 2 * whole * d, written),
            "the last tile is taken to see keys beyond the last one": (n_q * d + 2 * whole * d, written),
            "K is read and V is not": (n_q * d + kv / 2, written),
            "Q is not read": (kv, written),
            "the log-sum-exp is not written: one number a row": (read, n_q * d),
            "O is read and written for each tile: its rows stay in fast memory until they are done": (
                read + n_q * d, written),
            "the matrix is moved as well: with tiles it never leaves fast memory": (
                read + 2 * n_q * n_k, n_q * d + 2 * n_q * n_k),
            "n_k keys stand for n_q queries and the other way round": (n_k * d + kv, written),
        }  # fmt: skip

    what = f"head_traffic({n_q}, {n_k}, {d}, {block_q}, {causal}, {width})"
    check_bytes((n_q, n_k, d, block_q, causal), expected, width, ways(), what)


@exercise("03.7", points=1, hint="Follow flash2_head tile by tile: what is loaded, what stored? measure() counts it on arrays.")
@pytest.mark.parametrize(("n", "block_q", "causal"), [(96, 16, False), (96, 32, False), (96, 32, True), (100, 48, True)])
def test_the_counted_loops_move_what_the_formula_says(n, block_q, causal):
    d = 8
    runs = measure(standard_head, n, n, d, block_q, 16, causal), measure(flash2_head, n, n, d, block_q, 16, causal)
    for name, run, tile in zip(("three kernels", f"tiles of {block_q} rows"), runs, (None, block_q), strict=True):
        what = f"head_traffic({n}, {n}, {d}, {tile}, {causal}, 4), which the loop on counted arrays gives for {name},"
        with answers(what, "It is two numbers: bytes read, bytes written."):
            read, written = head_traffic(n, n, d, tile, causal, 4)
        check_close(np.array([float(read), float(written)]), 4.0 * np.array([run.loads, run.stores]), rtol=1e-12, what=what)


# --- 03.8 -----------------------------------------------------------------------------------------------------------


def held(block_q, block_k, d, width):
    """The bytes of a tile, array by array."""
    arrays = {"q": (block_q, d), "k": (block_k, d), "v": (block_k, d)}
    floats = {"acc": (block_q, d), "scores": (block_q, block_k), "m": (block_q, 1), "l": (block_q, 1)}
    return sum(width * rows * columns for rows, columns in arrays.values()) + sum(4 * a * b for a, b in floats.values())


def heights(n_q, d, memory, block_k, width):  # -> {words: rows of a tile that somebody might choose}
    rows = range(1, memory)
    most = max(b for b in rows if held(b, block_k, d, width) <= memory)
    passes = -(-n_q // most)
    square = max((b for b in range(1, most + 1) if held(b, b, d, width) <= memory), default=1)
    return {
        "the largest tile that fits: the last one may be much shorter, and all others higher than they must": min(most, n_q),
        "the largest tile that fits, even where there are fewer rows": most,
        "a square tile": min(square, n_q),
        "a square tile, even where there are fewer rows": square,
        "rounded down where it must be rounded up: one tile more, for a few rows that are left": max(1, n_q // passes),
        "one row more than fits": most + 1,
        "what fits without the tiles of K and V, which are there too": memory // (held(1, 0, d, width) + 4 * block_k),
        "what fits if all numbers take bytes_per_value: acc and scores are float32": (
            memory // width - 2 * block_k * d) // (2 * d + block_k + 2),
        "what fits without acc": (memory - held(0, block_k, d, width)) // (d * width + 4 * (block_k + 2)),
        "a quarter of the memory, as in the paper: it counts elements and leaves room for wide tiles of K": -(
            -memory // width // (4 * d)),
        "a power of two": 2 ** (most.bit_length() - 1),
        "the number of tiles, not the rows of one": passes,
    }  # fmt: skip


def ask_rows(n_q, d, memory, block_k, width):  # -> rows, what it was asked, its name where it is a known mistake
    what = f"rows_per_tile({n_q}, {d}, {memory:,}, {block_k}, {width})"
    with answers(what, "It is the number of rows of a tile of Q."):
        found = rows_per_tile(n_q, d, memory, block_k, width)
    if not isinstance(found, int | np.integer) or found < 1:
        pytest.fail(f"{what} must be a whole number of rows, at least 1, found {found!r}")
    named = next((f" It is {words}." for words, rows in heights(n_q, d, memory, block_k, width).items() if rows == found), "")
    return int(found), what, named


SMALL = [(100, 8, 6000, 8, 4), (37, 5, 1200, 4, 2), (9, 8, 960, 4, 4), (7, 3, 4000, 2, 4)]
LARGE = [(4096, 64, 96 * 1024, 16, 2), (4096, 128, 228 * 1024, 16, 2), (1000, 16, 20_000, 16, 4), (1, 64, 96 * 1024, 16, 2)]


@exercise(
    "03.8",
    points=2,
    hint=(
        "K and V pass by once for each tile of Q. What must be small: the tile, or the number of tiles?",
        "tile_bytes(block_q, …) grows by the same number of bytes with each row. How many rows fit into what K and V leave?",
        "row = tile_bytes(1, …) - tile_bytes(0, …); most = (memory - tile_bytes(0, …)) // row; as few tiles as fit are "
        "-(-n_q // most).",
    ),
)
@pytest.mark.parametrize(("n_q", "d", "memory", "block_k", "width"), [*LARGE, *SMALL, (96, 8, 9000, 16, 1)])
def test_keys_pass_by_as_few_times_as_fast_memory_allows(n_q, d, memory, block_k, width):
    rows, what, named = ask_rows(n_q, d, memory, block_k, width)
    taken = held(rows, block_k, d, width)
    assert taken <= memory, f"{what} = {rows}: such a tile takes {taken:,} bytes, fast memory has {memory:,}.{named}"
    ways = heights(n_q, d, memory, block_k, width)
    most, square = ways["the largest tile that fits, even where there are fewer rows"], ways["a square tile"]
    passes, fewest, by_squares = (-(-n_q // b) for b in (rows, most, square))
    if passes > fewest:
        moved, least, by_squares = (width * (2 * n_q * d + n_q + 2 * n_q * d * n) for n in (passes, fewest, by_squares))
        pytest.fail(
            f"{what} = {rows}: K and V of {n_q} keys pass by {passes} times, {fewest} would do: {moved:,} bytes are moved, "
            f"{least:,} are enough, and square tiles move {by_squares:,}.{named}"
        )


@exercise(
    "03.8",
    points=1,
    hint=(
        "Ten rows, and seven fit: tiles of 7 and 3, or of 5 and 5? With a causal mask, how many keys does each tile read?",
        "You know how many tiles there will be. The lowest height that gives no more of them is n_q over that, rounded up.",
        "passes = -(-n_q // most); return -(-n_q // passes).",
    ),
)
@pytest.mark.parametrize(("n_q", "d", "memory", "block_k", "width"), [*SMALL, (1, 64, 98_304, 16, 2), (130, 16, 7000, 4, 2)])
def test_with_a_causal_mask_the_counted_loops_read_least_by_tiles_of_one_height(n_q, d, memory, block_k, width):
    rows, what, named = ask_rows(n_q, d, memory, block_k, width)
    fitting = [b for b in range(1, n_q + 1) if held(b, block_k, d, width) <= memory]
    passes = -(-n_q // max(fitting))
    same = [b for b in fitting if -(-n_q // b) == passes]
    run, least = (width * measure(flash2_head, n_q, n_q, d, b, block_k, causal=True).moved for b in (rows, min(same)))
    if rows not in same or run > least:
        pytest.fail(f"{what} = {rows}: with a causal mask the loops move {run:,} bytes, {least:,} are enough.{named}")


def test_tall_tiles_move_less_than_half_of_what_square_ones_do():
    """The lesson's head on one multiprocessor of an H100: 228 KiB, and tiles as it has them."""
    rows = rows_per_tile(8192, 128, 228 * 1024)
    square = max(b for b in range(1, 300) if held(b, b, 128, 2) <= 228 * 1024)
    assert (rows, square) == (265, 129)
    assert 2 * sum(head_traffic(8192, 8192, 128, rows)) < sum(head_traffic(8192, 8192, 128, square))
    assert formulas.tile_bytes(265, 16, 128) == held(265, 16, 128, 2)


def test_a_memory_for_no_row_is_refused():
    with pytest.raises(MiniLLMError, match="a tile of one row takes 4,552 bytes, fast memory has 4,000"):
        rows_per_tile(10, 64, 4000)
    assert rows_per_tile(0, 64, 96 * 1024) == 1


# --- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", FLASH)
@given(**sizes, **blocks, causal=st.booleans(), window=st.none() | st.integers(1, 9), seed=seeds)
def test_counted_arrays_give_the_bits_of_plain_arrays(head, n_q, n_k, d, block_q, block_k, causal, window, seed):
    q, k, v = draws(seed, (n_q, d), (n_k, d), (n_k, d))
    mask = Mask(n_q, n_k, causal, window if causal else None)
    out, lse = np.zeros_like(q), np.full(n_q, -np.inf, np.float32)
    head(q, k, v, out, lse, mask, block_q, block_k)
    traffic, *found = counted(head, q, k, v, mask, block_q, block_k)
    assert [x.tobytes() for x in found] == [out.tobytes(), lse.tobytes()]
    assert traffic.held == 0, "nothing is left in fast memory when all is done"


@given(**sizes, block_q=blocks["block_q"], seed=seeds)
def test_standard_attention_in_three_passes_is_attention(n_q, n_k, d, block_q, seed):
    q, k, v = draws(seed, (n_q, d), (n_k, d), (n_k, d))
    _, out, _ = counted(standard_head, q, k, v, Mask(n_q, n_k), block_q, 1)
    check_close(out, attention_head(q, k, v), rtol=1e-5, atol=1e-6, what="attention in three passes")


# --- fast memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head", FLASH)
@given(d=st.integers(8, 24), rows=st.integers(1, 40))
def test_fast_memory_stays_within_three_times_what_the_blocks_were_made_for(head, causal, d, rows):
    memory = 4 * d * rows
    size = formulas.block_sizes(head, memory, d)
    assert measure(head, 2 * size[0] + 1, 2 * size[1] + 1, d, *size, causal).peak <= 3 * memory


@pytest.mark.parametrize("head", FLASH)
def test_fast_memory_does_not_grow_with_the_sequence_and_that_of_standard_attention_does(head):
    peaks = [measure(head, n, n, 8, 8, 16).peak for n in (64, 128, 256)]
    assert peaks[0] == peaks[1] == peaks[2]
    grown = [measure(standard_head, n, n, 8, 8, 16).peak for n in (64, 128, 256)]
    assert grown[0] < grown[1] < grown[2]
    assert measure(standard_head, 64, 64, 64, 1, 1).peak < 1.5 * 64 * 64, "K and V are not held at once"


def test_block_sizes_are_the_papers():
    assert formulas.block_sizes(flash1_head, 65536, 64) == (64, 256)
    assert formulas.block_sizes(flash1_head, 1000, 64) == (4, 4)  # ceil(1000 / 256), and no larger inside than outside
    assert formulas.block_sizes(flash2_head, 65536, 64) == (256, 64)


@pytest.mark.parametrize(("head", "statistics"), [(flash1_head, 3), (flash2_head, 1)])
def test_twice_the_memory_is_half_the_traffic(head, statistics):
    n, d, memories = 512, 16, [512, 1024, 2048, 4096]
    counts, slope = formulas.memory_sweep(head, n, d, memories)
    passes = [c.moved - 2 * n * d - statistics * n for c in counts]  # all but what moves once whatever the tiles
    assert [a / b for a, b in zip(passes, passes[1:], strict=False)] == [2, 2, 2]
    assert -1 < slope < -0.94


# --- the walk, and the paper's table --------------------------------------------------------------------------------


def places(steps):
    return [(s.rows.start, s.columns.start) for s in steps if s.columns]


def test_each_algorithm_walks_its_way():
    assert places(tile_walk(flash1_head, 6, 6, 2, 2, 3)) == [(0, 0), (2, 0), (4, 0), (0, 3), (2, 3), (4, 3)]
    assert places(tile_walk(flash2_head, 6, 6, 2, 2, 3)) == [(0, 0), (0, 3), (2, 0), (2, 3), (4, 0), (4, 3)]
    assert places(tile_walk(flash1_head, 6, 6, 2, 2, 3, True)) == [(0, 0), (2, 0), (4, 0), (2, 3), (4, 3)]
    assert places(tile_walk(flash2_head, 6, 6, 2, 2, 3, True)) == [(0, 0), (2, 0), (2, 3), (4, 0), (4, 3)]
    assert [s.columns and s.columns.stop for s in tile_walk(standard_head, 4, 6, 2, 2, 3)] == [6, 6, None, None, 6, 6]


def test_the_first_steps_of_a_walk_by_hand():
    first, second, *_ = tile_walk(flash1_head, 4, 6, 2, 2, 3)
    assert first.loads == {"k": 6, "v": 6, "q": 4, "out": 4, "lse": 2, "zeros_like(lse)": 2}
    assert second.loads == {"q": 4, "out": 4, "lse": 2, "zeros_like(lse)": 2}
    assert first.stores == second.stores == {"out": 4, "lse": 2, "zeros_like(lse)": 2}
    assert (second.rows, second.columns) == (slice(2, 4), slice(0, 3))
    first, second, *_ = tile_walk(flash2_head, 4, 6, 2, 2, 3)
    assert (first.loads, first.stores) == ({"q": 4, "k": 6, "v": 6}, {})
    assert (second.loads, second.stores) == ({"k": 6, "v": 6}, {"out": 4, "lse": 2})
    assert (second.rows, second.columns) == (slice(0, 2), slice(3, 6))


@pytest.mark.parametrize("head", HEADS)
@given(**sizes, **blocks, causal=st.booleans())
def test_the_steps_add_up_to_the_whole(head, **size):
    whole, steps = measure(head, **size), tile_walk(head, **size)
    assert sum(s.loads.total() for s in steps) == whole.loads
    assert sum(s.stores.total() for s in steps) == whole.stores
    assert sum(s.flops for s in steps) == whole.flops
    if head is not standard_head:
        assert len(set(places(steps))) == len(places(steps)), "no tile is visited twice"


def test_gpt2_medium_in_miniature():
    table = {row["what"]: row for row in formulas.gpt2_medium_table()}
    forward = {name: table[f"{name}: forward, counted"] for name in ("standard", "FlashAttention-1", "FlashAttention-2")}
    n, d = 1024, 64
    assert forward["standard"]["gb"] == pytest.approx((4 * n * d + 4 * n * n) * 2 * 16 * 64 / 1e9)
    assert forward["FlashAttention-1"]["gb"] == pytest.approx((2 * n * d + 3 * n * d * 3 + 4 * n * 3 + 3 * n) * 2 * 1024 / 1e9)
    assert forward["FlashAttention-2"]["gb"] == pytest.approx((2 * n * d + 2 * n * d * 3 + n) * 2 * 1024 / 1e9)
    assert [row["times_flop"] for row in forward.values()] == [1, 1, 1], "forward, nothing is computed twice"
    both = table["FlashAttention: forward + backward, formula"]
    assert both["times_flop"] == pytest.approx(7 / 6)
    paper = table["FlashAttention: forward + backward, paper"]
    assert 6 < forward["FlashAttention-1"]["times_fewer_bytes"] < forward["FlashAttention-2"]["times_fewer_bytes"] < 9.2
    assert (round(paper["times_fewer_bytes"], 1), round(paper["times_flop"], 2)) == (9.2, 1.13)


@pytest.mark.parametrize(("n", "d", "block"), [(1, 1, 1), (128, 64, 32), (130, 16, 48)])
def test_the_cards_count_as_the_counted_runs_do(n, d, block):
    """costs/ has its own closed forms, so that a quiz starts without NumPy; the statistics of the rows apart."""
    passes = -(-n // block)
    assert cards.standard_traffic(n, d) == formulas.standard_moved(n, n, d)
    assert cards.flash1_traffic(n, d, block) == formulas.flash1_moved(n, n, d, block, block) - (4 * n * passes + 3 * n)
    assert cards.flash2_traffic(n, d, block) == formulas.flash2_moved(n, n, d, block, block) - n
    assert cards.attention_flops(n, d) == formulas.matmul_flops(n, n, d)
