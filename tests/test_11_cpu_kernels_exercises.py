"""Exercises of lesson 11: lanes and codes, tiles and cores, their order in a cache, and a norm that waits."""

import kernel_mistakes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minillm.backends.numba_.crossover import crossover
from minillm.backends.numba_.packed import code_at, halfwords, interleave, place
from minillm.backends.numba_.sketches import blocked_matmul, norm_matvec, panels_read, sharing_panels, tile_order
from minillm.costs.time import blocked_traffic
from minillm.course.checks import answers, check_close, draws, exercise, run_seed, seeds

read_code = getattr(code_at, "py_func", code_at)  # the Python under the compiled function: its errors name lines


def codes_of(bits, seed=0):  # -> (16, 32) uint8
    return np.random.default_rng([run_seed(), seed, bits]).integers(0, 1 << bits, (16, 32)).astype(np.uint8)


@exercise("11.1", points=2, hint=(
    "Whose code lies in the lowest four bits of word 3: of which row, and which column?",
    "Two words are a lane, of one row: word 2 · lane has even columns, the next odd ones. Pair column // 2 begins `bits` bits "
    "above the pair before it; after 16 bits of a word the next 32 words follow.",
    "bit = bits * (column // 2); the word is 32 * (bit // 16) + 2 * lane + column % 2, and the code begins at bit % 16 of it.",
))  # fmt: skip
@pytest.mark.parametrize("bits", [4, 8, 2, 1])
def test_a_code_is_where_the_picture_has_it(bits):
    spots = kernel_mistakes.spots(bits)
    found = np.zeros((16, 32, 2), int)
    for lane, column in np.ndindex(16, 32):
        with answers(f"place({lane}, {column}, {bits})", "Is it a word and a shift, two whole numbers?"):
            word, shift = place(lane, column, bits)
            found[lane, column] = int(word), int(shift)
    for at, what in ((1, "the first bit of each code"), (0, "the word of each code")):
        wrong = {said: one[..., at] for said, one in kernel_mistakes.misplaced(bits).items()}
        check_close(found[..., at], spots[..., at], what=f"{what}, with {bits} bits a code,", mistakes=lambda wrong=wrong: wrong)


@exercise("11.1", points=1, hint="Codes of 3, 5, 6 bits lie in two places: `place` with 2 or 4 bits, and with the 1 or 2 left.")
@pytest.mark.parametrize("bits", [4, 5, 6, 8, 2, 3])
def test_what_is_packed_is_found_again(bits):
    codes = codes_of(bits)
    words = kernel_mistakes.record(codes, bits)
    with answers(f"codes of {bits} bits", "Does every place lie within the words of its codes?"):
        packed = interleave(codes.reshape(1, 16, 1, 32), bits).reshape(-1)
        found = np.array([[int(read_code(words, lane, column, bits)) for column in range(32)] for lane in range(16)])
    expected = words[: 32 * bits].view(np.uint8)
    check_close(packed, expected, what=f"the bytes of a record of {bits} bits")
    check_close(found, codes.astype(int), what=f"codes of {bits} bits", mistakes=lambda: kernel_mistakes.misread(codes, bits))


@given(bits=st.sampled_from([1, 2, 4]), bands=st.integers(1, 2), blocks=st.integers(1, 3), seed=seeds)
def test_a_lane_holds_its_pairs_from_the_lowest_bits_up(bits, bands, blocks, seed):
    pairs = np.random.default_rng([run_seed(), seed]).integers(0, 1 << bits, (bands, blocks, 16, 16, 2)).astype(np.uint8)
    expected = kernel_mistakes.halfwords(pairs, bits)
    check_close(halfwords(pairs, bits), expected, what="the bytes")


sizes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
blocks = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


@exercise("11.3", points=2, hint=(
    "Which range does the last tile of a side cover, if the block does not divide the side?",
    "A tile of C is a sum over all of k, in steps of `inner`; it begins at zero for every tile.",
    "total += a[i : i + rows, p : p + inner] @ b[p : p + inner, j : j + columns], p in range(0, k, inner); then c[…] = total.",
))  # fmt: skip
@given(sizes=sizes, block=blocks, seed=seeds)
def test_tiles_of_any_size_give_the_product(sizes, block, seed):
    (m, k, n), c = sizes, np.full((sizes[0], sizes[2]), kernel_mistakes.UNWRITTEN, np.float32)
    a, b = draws(seed, (m, k), (k, n))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    blocked_matmul(a, b, c, block)
    check_close(c, exact, what="C", mistakes=lambda: kernel_mistakes.matmul_mistakes(a, b, block))


@exercise("11.3", points=1, hint=(
    "A tile of A is read once for each column of tiles of C, a tile of B once for each row of tiles.",
    "Sum in a tile of your own and store it once: C is never read.",
))  # fmt: skip
@pytest.mark.parametrize(("sizes", "block"), [((8, 8, 8), (4, 2, 4)), ((7, 10, 9), (3, 4, 2)), ((1, 5, 6), (4, 2, 3))])
def test_tiles_read_no_more_than_they_must(sizes, block):
    (m, k, n), (rows, inner, columns) = sizes, block
    a, b = draws(0, (m, k), (k, n))
    a, b, c = (kernel_mistakes.Counted(name, x) for name, x in (("A", a), ("B", b), ("C", np.zeros((m, n), np.float32))))
    blocked_matmul(a, b, c, block)
    for matrix, limit in ((a, (rows, inner)), (b, (inner, columns))):
        height, width = (max((shape[i] for shape in matrix.shapes), default=0) for i in (0, 1))
        assert height <= limit[0] and width <= limit[1], (
            f"a piece of {matrix.name} of {height} × {width} is read at once; the cache was said to hold {limit[0]} × {limit[1]}"
        )
    for matrix, expected in ((a, m * k * -(-n // columns)), (b, k * n * -(-m // rows)), (c, 0)):
        said = f"{matrix.loads} elements of {matrix.name} are read, with tiles of {block} it takes {expected}"
        assert matrix.loads == expected, said
    assert c.stores == m * n, f"{c.stores} elements of C are stored, it has {m * n}"


@exercise("11.3", points=1, hint="each(tile, tiles) is who shares the tiles among cores: call it once, with all of them.")
def test_all_tiles_are_handed_over_at_once():
    a, b = draws(5, (5, 4), (4, 6))
    c, handed = np.zeros((5, 6), np.float32), []

    def each(work, tiles):
        handed.append(list(tiles))
        for tile in handed[-1]:
            work(*tile)

    blocked_matmul(a, b, c, (2, 3, 4), each)
    assert handed, "each was never called: all tiles ran on one core. Hand them over: each(tile, tiles)"
    found = f"each was called {len(handed)} times, with {[len(tiles) for tiles in handed[:6]]} tiles"
    assert len(handed) == 1, f"{found}: tiles that are handed over one by one run one by one, however many cores there are"
    assert len(handed[0]) == 6, f"C of 5 × 6 has 6 tiles of 2 × 4, {len(handed[0])} were handed over"


@exercise("11.3", points=1, hint=(
    "What do two calls of tile share? Two cores run them at the same time.",
    "Each tile of C needs an accumulator of its own, and all of k: then no two calls touch one number.",
))  # fmt: skip
@pytest.mark.parametrize("workers", [2, 3])
def test_tiles_may_run_at_the_same_time(workers):
    a, b = draws(1, (6, 8), (8, 6))
    c, turns = np.zeros((6, 6), np.float32), kernel_mistakes.Turns(workers)
    slow_a, slow_b, slow_c = (kernel_mistakes.Counted(name, x, turns.next) for name, x in (("A", a), ("B", b), ("C", c)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    blocked_matmul(slow_a, slow_b, slow_c, (3, 2, 2), turns.each)
    assert np.allclose(c, exact, atol=1e-4), (
        f"C is wrong when {workers} cores take turns after every read, and a core in the middle of a tile waits for others: "
        f"expected {exact[0, 0]:.4f} at C[0, 0], found {c[0, 0]:.4f}, and {np.sum(~np.isclose(c, exact, atol=1e-4))} of {c.size} "
        "elements differ. Do two tiles add into one accumulator, or read C, add and write it back?"
    )


@exercise("11.4", points=2, hint=(
    "One number divides the whole normed row. Must the products wait for it? And which integer holds 32 products of 15 · 32,767?",
    "scales[:, b] belongs to a row and a block of 32 columns; a minimum counts once for each x: times the sum of the rounded x.",
    "y += step * (scales[:, b] * (codes_b @ q) - minima[:, b] * q.sum()) block by block; at the end y /= √(squares / d + ε).",
))  # fmt: skip
@given(n_rows=st.integers(1, 5), n_blocks=st.integers(1, 4), size=st.sampled_from([0.01, 1.0, 100.0]), seed=seeds)
def test_the_product_with_a_normed_row_never_written(n_rows, n_blocks, size, seed):
    x, weight, codes, scales, minima = kernel_mistakes.quantized(seed, n_rows, n_blocks, size)
    exact = kernel_mistakes.norm_matvec(x, weight, 1e-5, codes, scales, minima)
    y = norm_matvec(x, weight, 1e-5, codes, scales, minima)
    scale = np.abs(exact).max() + 1

    def mistakes():
        return {said: value / scale for said, value in kernel_mistakes.norm_mistakes(x, weight, codes, scales, minima).items()}

    what = "W · rms_norm(x), divided by its largest size,"
    check_close(y / scale, exact / scale, rtol=2e-3, atol=2e-3, what=what, mistakes=mistakes)


@exercise("11.4", points=1, hint="np.rint before it becomes an integer: astype(int) alone cuts, and 0.9 becomes 0.")
def test_x_is_rounded_to_steps_and_not_cut():
    signs = np.random.default_rng([run_seed(), 114]).choice([-1.0, 1.0], 31)
    x = np.concatenate([[1.0], 0.9 / 32767 * signs]).astype(np.float32)  # one whole step each, once rounded
    codes = np.concatenate([[0], np.where(signs > 0, 15, 0)]).astype(np.uint8)[None]
    one, root, positive = np.ones((1, 1), np.float32), np.sqrt((x.astype(np.float64) ** 2).mean() + 1e-5), int((signs > 0).sum())
    y = norm_matvec(x, np.ones(32, np.float32), 1e-5, codes, one, 0 * one)
    steps = np.float64(y[0] * root * 32767)
    ways = {
        "x is cut to whole steps: it is to be rounded (np.rint)": 0.0,
        "x stays in floats: it is to be rounded to whole steps": 0.9 * 15 * positive,
    }
    what = f"the sum of {positive} products of 15 and 0.9 steps, each of which rounds to 1,"
    check_close(steps, np.float64(15 * positive), rtol=1e-3, what=what, mistakes=lambda: ways)


@exercise("11.4", points=1, hint="Take a block of x once, use it for the squares and for the product, and forget it.")
def test_x_is_read_once_and_in_blocks():
    x, weight, codes, scales, minima = kernel_mistakes.quantized(3, 4, 5, 1.0)
    x, codes = kernel_mistakes.Counted("x", x), kernel_mistakes.Counted("codes", codes)
    norm_matvec(x, weight, 1e-5, codes, scales, minima)
    again = f"{x.loads} numbers of x are read, it has {x.data.size}: is it read a second time for the norm?"
    assert x.loads == x.data.size, again
    most = max(int(np.prod(shape)) for shape in x.shapes)
    assert most <= 32, f"{most} numbers of x are taken at once: a block is 32, and the rest of x need not be in the cache"
    assert codes.loads == codes.data.size, f"{codes.loads} codes are read, there are {codes.data.size}"


@exercise("11.4", points=1, hint="What does rounding divide by, where a whole block of x is zero?")
def test_a_block_of_zeros_adds_nothing():
    x, weight, codes, scales, minima = kernel_mistakes.quantized(4, 3, 3, 1.0)
    x[32:64] = 0
    exact = kernel_mistakes.norm_matvec(x, weight, 1e-5, codes, scales, minima)
    y = norm_matvec(x, weight, 1e-5, codes, scales, minima)
    check_close(y, exact, rtol=2e-3, atol=2e-3 * (np.abs(exact).max() + 1), what="y, where the second block of x is zeros,")


SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(3, 8))


@exercise("11.2", points=1, hint="The order is free, the tiles are not: each (i, j) once. The last group may be smaller.")
@given(shape=SHAPES)
@example(shape=(7, 3, 4))
def test_each_tile_is_done_once(shape):
    rows, columns, room = shape
    with answers(f"tile_order{shape}", "What happens where the group does not divide the rows?"):
        order = [(int(i), int(j)) for i, j in tile_order(rows, columns, room)]
    every = {(i, j) for i in range(rows) for j in range(columns)}
    missing, foreign = every - set(order), set(order) - every
    assert not missing, f"{rows} × {columns} tiles, room for {room}: {len(missing)} are never done, {min(missing)} among them"
    assert not foreign, f"{rows} × {columns} tiles, room for {room}: {min(foreign)} is no tile. Is i below rows, j below columns?"
    assert len(order) == len(every), f"{len(order)} tiles are done, C of {rows} × {columns} has {len(every)}: some are done twice"


@exercise("11.2", points=3, hint=(
    "Row by row, which panels are still there when the second row begins? Which would you like to find there?",
    "Take a group of rows, and walk down it column by column: the group's panels of A stay, and each panel of B serves the whole "
    "group. When a new panel of B comes, which panel is the oldest: the B before it, or one of A's?",
    "group = room - 2; for first in range(0, rows, group): for j in range(columns): every i of the group.",
))  # fmt: skip
@given(shape=SHAPES)
@example(shape=(9, 7, 5))
def test_few_panels_come_from_memory(shape):
    rows, columns, room = shape
    with answers(f"tile_order{shape}", "What happens where the group does not divide the rows?"):
        order = [(int(i), int(j)) for i, j in tile_order(rows, columns, room)]
    read, most = kernel_mistakes.panels_read(order, room), rows + columns * -(-rows // (room - 2))
    if read > most:
        ways = kernel_mistakes.orders(rows, columns, room)
        said = next((f" This is {what}." for what, way in ways.items() if way == order), "")
        by_row = kernel_mistakes.panels_read(ways["row by row: each row reads all of B again"], room)
        pytest.fail(
            f"{rows} × {columns} tiles with a cache of {room} panels read {read} panels, expected at most {most}; row by row it "
            f"is {by_row}, and each panel once would be {rows + columns}.{said}"
        )


def test_the_order_spares_the_product_its_bytes():
    """24 × 16 tiles, as the gate of the lesson has for 1,024 tokens, and seven panels: a quarter is read, and C is the same."""
    assert panels_read([(i, j) for i in range(24) for j in range(16)], 7) == 24 + 24 * 16
    order = tile_order(24, 16, 7)
    assert panels_read(order, 7) == kernel_mistakes.panels_read(order, 7) == 24 + 5 * 16
    a, b = draws(3, (7, 4), (4, 9))
    c = np.zeros((7, 9), np.float32)
    blocked_matmul(a, b, c, (2, 4, 2), sharing_panels(4))
    check_close(c, a.astype(np.float64) @ b, what="C, tile by tile in another order,")


@exercise("11.5", points=1, hint=(
    "How many tiles of C stand side by side, and how many below each other? What does each of them read?",
    "All tiles of one row of tiles need the same rows of A: so A is read once for each column of tiles. What of B?",
    "m * k * math.ceil(n / columns) + k * n * math.ceil(m / rows) + m * n.",
))  # fmt: skip
@given(m=st.integers(1, 9), k=st.integers(1, 5), n=st.integers(1, 9), rows=st.integers(1, 10), columns=st.integers(1, 10))
@example(m=7, k=3, n=8, rows=3, columns=5)  # tails on both sides, and no two sides alike
def test_the_traffic_of_a_blocked_product_is_what_its_tiles_touch(m, k, n, rows, columns):
    moved = kernel_mistakes.traffic(m, k, n, rows, columns)
    what = f"blocked_traffic({m}, {k}, {n}, {rows}, {columns})"
    with answers(what, "It is one number of elements."):
        found = float(blocked_traffic(m, k, n, rows, columns))
    wrong = kernel_mistakes.traffic_mistakes(m, k, n, rows, columns)
    check_close(found, float(moved), rtol=0, atol=0, what=what, mistakes=lambda: wrong)


@exercise("11.5", points=1, hint="Sides that the tile does not divide: the last tile is smaller, and reads less.")
def test_the_gate_of_the_lesson_in_tiles():
    for rows, columns in ((1, 1), (16, 8), (64, 64), (2000, 200), (100, 100)):
        wrong = kernel_mistakes.traffic_mistakes(1536, 576, 128, rows, columns)
        right = float(1536 * 576 * -(-128 // columns) + 576 * 128 * -(-1536 // rows) + 1536 * 128)
        what = f"the traffic of the gate (1,536 × 576) and 128 tokens in tiles of {rows} × {columns}"
        with answers(what, "It is one number of elements."):
            found = float(blocked_traffic(1536, 576, 128, rows, columns))
        check_close(found, right, rtol=1e-12, what=what, mistakes=lambda wrong=wrong: wrong)


@given(wins=st.lists(st.sampled_from("ABA="), min_size=1, max_size=8), seed=seeds)
def test_the_crossover_is_where_b_begins_to_win_for_good(wins, seed):
    rng = np.random.default_rng([run_seed(), seed])
    tokens = np.cumsum(rng.integers(1, 9, len(wins))).tolist()
    a = rng.uniform(1, 2, len(wins)).tolist()
    b = [t * {"A": 1.5, "B": 0.5, "=": 1.0}[w] for t, w in zip(a, wins, strict=True)]
    tail = "".join(wins)[len("".join(wins).rstrip("B")) :]
    expected = tokens[len(wins) - len(tail)] if tail else None
    found = crossover(tokens, a, b)
    assert found == expected, (
        f"expected {expected}, found {found}: at {tokens} tokens the faster way is {', '.join(wins)} (= is a draw). "
        "B must win at the size returned and at every larger one."
    )
