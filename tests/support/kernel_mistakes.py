"""For the tests of lesson 11: layouts by the picture, in plain loops; arrays that count; cores that take turns; mistakes."""

import threading

import numpy as np

UNWRITTEN = -777.0  # what C holds before anything is written to it

# --- layouts ------------------------------------------------------------------------------------------------------------


def record(codes, bits):  # (16, 32) -> 16-bit words of a record, by the picture of packed.py
    """Lane = row; a word holds codes of even columns (side 0) or of odd ones, the first pair in the lowest bits."""
    width = 8 if bits == 8 else 4 if bits > 3 else 2
    each = 16 // width
    words = [0] * (32 * (16 // each))
    for row in range(16):
        for column in range(32):
            pair, side = column // 2, column % 2
            low = int(codes[row, column]) & ((1 << width) - 1)
            words[32 * (pair // each) + 2 * row + side] |= low << width * (pair % each)
    if bits in (3, 5, 6):
        upper = bits - width
        more = [0] * (32 * upper)
        for row in range(16):
            for column in range(32):
                pair, side = column // 2, column % 2
                more[32 * (pair * upper // 16) + 2 * row + side] |= (int(codes[row, column]) >> width) << pair * upper % 16
        words += more
    return np.array(words + [0x5A5A] * 64, np.uint16)  # behind the codes: scales


def spots(bits):  # -> (16, 32, 2): word and first bit of each code, filled in by walking through the picture
    found, word, shift = np.zeros((16, 32, 2), int), 0, 0
    for pair in range(16):
        for row in range(16):
            for side in (0, 1):
                found[row, 2 * pair + side] = word + 2 * row + side, shift
        shift += bits
        if shift == 16:
            word, shift = word + 32, 0
    return found


def misplaced(bits):  # -> {words: (16, 32, 2)}
    right = spots(bits)
    column = np.arange(32)
    turned, swapped, by_row = right.copy(), right.copy(), right.copy()
    turned[..., 1] = 16 - bits - right[..., 1]
    swapped[..., 0] ^= 1
    by_row[..., 0] = right[..., 0] // 32 * 32 + np.arange(16)[:, None] + right[..., 0] % 2 * 16
    beside = right.copy()
    beside[..., 0] = 2 * bits * np.arange(16)[:, None] + 2 * (right[..., 0] // 32) + right[..., 0] % 2
    half_wide = right.copy()
    half_wide[..., 0] = right[..., 0] % 32 + right[..., 0] // 32 * 16
    return {
        "pairs are put from the top: the first pair has the lowest bits": turned,
        "the halves of a lane are swapped: even columns are in the first word": swapped,
        "columns are in the file's order (low halves, then high ones): here neighbours are a pair": right[
            :, np.where(column < 16, 2 * column, 2 * column - 31)],
        "all even halves come first, then all odd ones: a lane's two halves are neighbours": by_row,
        "the words of a row lie side by side: those of sixteen rows do, for each register": beside,
        "a register is 16 words: sixteen lanes of two words are 32": half_wide,
        "the first bit is counted in 4 bits a code, whatever bits is": np.stack(
            [right[..., 0], np.broadcast_to(4 * (column // 2 % 4), (16, 32))], axis=-1),
        "every row has the place of row 0": np.broadcast_to(right[:1], right.shape),
    }  # fmt: skip


def misread(codes, bits):  # (16, 32) -> {what was done: (16, 32)}
    codes, width = codes.astype(int), 8 if bits == 8 else 4 if bits > 3 else 2
    each, low = 16 // width, (1 << width) - 1
    column = np.arange(32)
    pair, side = column // 2, column % 2
    turned = 2 * (pair // each * each + each - 1 - pair % each) + side
    file_order = np.where(column < 16, 2 * column, 2 * column - 31)
    return {
        "the codes of a word are taken from the top: pair 0 is in the lowest bits": codes[:, turned],
        "the halves of a lane are swapped: the even column is in the lower half": codes[:, column ^ 1],
        "columns are taken in the file's order (low halves, then high ones): here neighbours are a pair": codes[:, file_order],
        "the upper bits are left out": codes & low,
        "the upper bits are not moved up above the lower ones": (codes & low) | codes >> width,
        "every row reads the lane of row 0": np.repeat(codes[:1], 16, axis=0),
    }


def halfwords(pairs, bits):  # (bands, blocks, 16, rows, 2) -> (bands, blocks, bytes) uint8
    bands, blocks, each = *pairs.shape[:2], 16 // bits
    words = np.zeros((bands, blocks, 16 // each, 16, 2), np.uint16)
    for at in np.ndindex(pairs.shape):
        band, block, pair, row, side = at
        value = int(words[band, block, pair // each, row, side]) | int(pairs[at]) << bits * (pair % each)
        words[band, block, pair // each, row, side] = value
    return words.view(np.uint8).reshape(bands, blocks, -1)


# --- tiles --------------------------------------------------------------------------------------------------------------


class Counted:
    """A matrix in slow memory: read and written by pieces, which it counts. Taking it whole is an error that says why."""

    for_submissions = ("shape", "dtype", "size", "ndim", "reshape")

    def __init__(self, name, data, after=lambda: None, tally=None):
        self.name, self.data, self.after = name, data, after
        self.shape, self.dtype, self.size, self.ndim = data.shape, data.dtype, data.size, data.ndim
        self.tally = {"loads": 0, "stores": 0, "shapes": []} if tally is None else tally

    loads, stores, shapes = (property(lambda self, name=name: self.tally[name]) for name in ("loads", "stores", "shapes"))

    def __len__(self):
        return len(self.data)

    def reshape(self, *shape):
        """The same memory, the same count: `for part in x.reshape(-1, 32)` reads block by block."""
        return Counted(self.name, self.data.reshape(*shape), self.after, self.tally)

    def __getitem__(self, part):
        piece = np.array(self.data[part])
        self.tally["loads"] += piece.size
        self.shapes.append(piece.shape)
        self.after()
        return piece

    def __setitem__(self, part, value):
        self.tally["stores"] += self.data[part].size
        self.data[part] = value

    def __array__(self, *_, **__):
        raise AssertionError(
            f"{self.name} is taken whole, {' × '.join(map(str, self.shape))} numbers at once: it lies in slow memory. "
            f"Take a piece ({self.name}[...]), use it for all that it is needed for, and forget it"
        )

    def whole(self, *_):
        return self.__array__()

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __matmul__ = __rmatmul__ = __pow__ = whole


class Turns:
    """Cores that run in turns: after every read the next one goes on. Threads, but only one at a time: no chance is in it."""

    def __init__(self, workers):
        self.workers, self.alive, self.at = workers, [], 0
        self.baton = threading.Condition()

    def each(self, work, tiles):
        """Deal the tiles to the cores like cards, and run them."""
        tiles = list(tiles)  # once: it may be a generator
        hands, problems = [tiles[i :: self.workers] for i in range(self.workers)], []

        def core(i):
            try:
                self.wait(i)
                for tile in hands[i]:
                    work(*tile)
            except BaseException as problem:
                problems.append(problem)
            finally:
                with self.baton:
                    self.step(i)
                    self.alive.remove(i)
                    self.baton.notify_all()

        self.alive, self.at = list(range(self.workers)), 0
        threads = [threading.Thread(target=core, args=(i,), name=str(i), daemon=True) for i in range(self.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]

    def step(self, i):
        """The turn goes to the next core that still has work."""
        self.at = self.alive[(self.alive.index(i) + 1) % len(self.alive)]

    def wait(self, i):
        with self.baton:
            self.baton.wait_for(lambda: self.at == i)

    def next(self):
        """Called by a core after a read."""
        name = threading.current_thread().name
        if not name.isdigit():
            return  # not one of the cores: a read before the tiles begin
        with self.baton:
            self.step(int(name))
            self.baton.notify_all()
        self.wait(int(name))


def matmul_mistakes(a, b, block):
    (m, k), n, (rows, inner, columns) = a.shape, b.shape[1], block
    a, b = a.astype(np.float64), b.astype(np.float64)
    whole = {"rows": m // rows * rows, "columns": n // columns * columns, "inner": k // inner * inner}
    tail_rows, tail_columns = a @ b, a @ b
    tail_rows[whole["rows"] :], tail_columns[:, whole["columns"] :] = UNWRITTEN, UNWRITTEN
    both = tail_rows.copy()
    both[:, whole["columns"] :] = UNWRITTEN
    last = slice((k - 1) // inner * inner, k)
    return {
        "only the last block of k counts: the tile is overwritten, not added to": a[:, last] @ b[last],
        "only the first block of k counts": a[:, :inner] @ b[:inner],
        "the tail of k is dropped: the last block may be smaller": a[:, : whole["inner"]] @ b[: whole["inner"]],
        "the tail rows are dropped: C's last rows were never written": tail_rows,
        "the tail columns are dropped: C's last columns were never written": tail_columns,
        "tail rows and columns are dropped": both,
    }


# --- the order of tiles -------------------------------------------------------------------------------------------------


def panels_read(order, room):
    """A cache of so many panels, as a list, the oldest first."""
    there, read = [], 0
    for tile in order:
        for panel in zip("AB", tile, strict=True):
            if panel in there:
                there.remove(panel)
            else:
                read += 1
            there = [*there, panel][-room:]
    return read


def orders(rows, columns, room):  # -> {words: [(i, j)]}
    def groups(size):
        return [(i, j) for at in range(0, rows, size) for j in range(columns) for i in range(at, min(at + size, rows))]

    by_row = [(i, j) for i in range(rows) for j in range(columns)]
    inside = [(i, j) for at in range(0, rows, room - 2) for i in range(at, min(at + room - 2, rows)) for j in range(columns)]
    side = max(1, room // 2)
    square = [
        (i, j) for at in range(0, rows, side) for left in range(0, columns, side)
        for i in range(at, min(at + side, rows)) for j in range(left, min(left + side, columns))
    ]  # fmt: skip
    return {
        "row by row: each row reads all of B again": by_row,
        "column by column: each column reads all of A again": [(i, j) for j in range(columns) for i in range(rows)],
        f"groups of room - 1, {room - 1} rows: when a new B comes, the oldest panel is one of A's, needed next": groups(room - 1),
        "groups of room rows: there is no place for any B beside them": groups(room),
        "groups of half the room: fewer rows share a panel of B than could": groups(max(1, room // 2)),
        "square groups, half of the room for A and half for B: A is read again for every group beside the first": square,
        "groups of rows, but row by row within them: a panel of B is gone before the next row of the group": inside,
        "groups of columns: then A is read again and again": [
            (i, j) for at in range(0, columns, room - 2) for i in range(rows) for j in range(at, min(at + room - 2, columns))],
    }  # fmt: skip


# --- the norm that waits ------------------------------------------------------------------------------------------------


def quantized(seed, rows, blocks, size):  # -> x, weight, codes, scales, minima
    rng = np.random.default_rng([seed, 11])
    x = (rng.standard_normal(32 * blocks) * size * 3.0 ** rng.integers(-1, 2, 32 * blocks)).astype(np.float32)
    x[::32] = 4 * size  # sums of products are large, and a block's scale is known
    weight = rng.uniform(0.5, 1.5, 32 * blocks).astype(np.float32)
    codes = rng.integers(0, 16, (rows, 32 * blocks)).astype(np.uint8)
    scales = (2.0 ** -np.arange(1, blocks + 1) * rng.uniform(0.8, 1.2, (rows, blocks))).astype(np.float32)
    return x, weight, codes, scales, (scales * rng.uniform(4, 8, scales.shape)).astype(np.float32)


def norm_matvec(x, weight, eps, codes, scales, minima):
    """The textbook, in float64: all of the normed row, all of the weights."""
    x = np.asarray(x, np.float64)
    h = x / np.sqrt((x * x).mean() + eps) * weight
    return (np.repeat(scales, 32, 1).astype(np.float64) * codes - np.repeat(minima, 32, 1)) @ h


def norm_mistakes(x, weight, codes, scales, minima, eps=1e-5):
    wide = x.astype(np.float64)
    root = np.sqrt((wide * wide).mean() + eps)
    blocks = (wide * weight).reshape(-1, 32)
    by_block = np.repeat(np.sqrt((wide.reshape(-1, 32) ** 2).mean(1) + eps), 32)

    def product(scales=scales, minima=minima, h=wide * weight, root=root, codes=codes):
        return (np.repeat(scales, 32, 1).astype(np.float64) * codes - np.repeat(minima, 32, 1)) @ (h / root)

    q = np.rint(blocks / np.abs(blocks).max(1, keepdims=True) * 32767)
    step = np.abs(blocks).max(1) / 32767
    sums = (codes.reshape(len(codes), -1, 32) * q).sum(2)
    wrapped = (sums.astype(np.int64) + 32768) % 65536 - 32768
    little = np.rint(blocks / np.abs(blocks).max(1, keepdims=True) * 127)
    coarse = scales * (codes.reshape(len(codes), -1, 32) * little).sum(2) - minima * little.sum(1)
    return {
        "the sum of products overflows 16 bits: 32 · 15 · 32,767 needs 25": (scales * wrapped - minima * q.sum(1)) @ step / root,
        "the scale is that of the block before": product(scales=np.roll(scales, 1, axis=1)),
        "the scale of block 0 is used for all": product(scales=np.repeat(scales[:, :1], scales.shape[1], 1)),
        "scale and minimum of the block before are used": product(np.roll(scales, 1, axis=1), np.roll(minima, 1, axis=1)),
        "the minimum is left out": product(minima=0 * minima),
        "the minimum is subtracted once a block, not once for each x": (scales * sums) @ step / root - minima.sum(1) / root,
        "nothing is divided by the root of the mean square": product(root=1.0),
        "each block is divided by its own root: the mean goes over all of x": product(root=by_block),
        "the squares are summed, not averaged": product(root=np.sqrt((wide * wide).sum() + eps)),
        "the norm's weight is left out": product(h=wide),
        "x is rounded to 8 bits": coarse @ (np.abs(blocks).max(1) / 127) / root,
    }


def traffic(m, k, n, rows, columns):  # -> elements, counted tile by tile
    moved = 0
    for i in range(0, m, rows):
        for j in range(0, n, columns):
            height, width = min(rows, m - i), min(columns, n - j)
            moved += height * k + k * width + height * width
    return moved


def traffic_mistakes(m, k, n, rows, columns):  # -> {words: elements}
    down, across = -(-m // rows), -(-n // columns)
    a, b, c = m * k, k * n, m * n
    return {
        "a tile at the edge is taken for a whole one": float(down * across * (k * (rows + columns) + rows * columns)),
        "the tiles are not rounded up: those at the edge are left out": float(a * (n // columns) + b * (m // rows) + c),
        "the numbers of tiles are not rounded: one at the edge needs all of A's rows as well": a * n / columns + b * m / rows + c,
        "A is read for each row of tiles and B for each column: it is the other way round": float(a * down + b * across + c),
        "each matrix is read once, as if the cache held all of them": float(a + b + c),
        "A is read once, as if its rows were still there for the next tile": float(a + b * down + c),
        "B is read once, as if its columns were still there for the next tile": float(a * across + b + c),
        "C is left out: it is written once": float(a * across + b * down),
        "C is read as well: its sums stay in registers until they are complete": float(a * across + b * down + 2 * c),
        "A and B are read for each tile of C": float((a + b) * down * across + c),
        "products are counted, not elements": float(2 * m * k * n),
    }
