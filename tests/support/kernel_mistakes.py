"""For the tests of lesson 11: layouts by the picture, in plain loops; arrays that count; cores that take turns; mistakes."""

import threading

import numpy as np

UNWRITTEN = -777.0  # what C holds before anything is written to it

# --- layouts ------------------------------------------------------------------------------------------------------------


def record(codes, bits):  # (16, 32) -> 16-bit words of a record, by the picture of packed.py
    """Lane = row; a word holds codes of even columns (side 0) or of odd ones, the first pair in the lowest bits."""
    width = 8 if bits == 8 else 4
    each = 16 // width
    words = [0] * (32 * (16 // each))
    for row in range(16):
        for column in range(32):
            pair, side = column // 2, column % 2
            low = int(codes[row, column]) & ((1 << width) - 1)
            words[32 * (pair // each) + 2 * row + side] |= low << width * (pair % each)
    if bits in (5, 6):
        upper = bits - 4
        more = [0] * (32 * upper)
        for row in range(16):
            for column in range(32):
                pair, side = column // 2, column % 2
                more[32 * (pair * upper // 16) + 2 * row + side] |= (int(codes[row, column]) >> 4) << pair * upper % 16
        words += more
    return np.array(words + [0x5A5A] * 64, np.uint16)  # behind the codes: scales


def misread(codes, bits):  # (16, 32) -> {what was done: (16, 32)}
    codes = codes.astype(int)
    each = 2 if bits == 8 else 4
    column = np.arange(32)
    pair, side = column // 2, column % 2
    turned = 2 * (pair // each * each + each - 1 - pair % each) + side
    file_order = np.where(column < 16, 2 * column, 2 * column - 31)
    return {
        "the nibbles of a word are taken from the top: pair 0 is in the lowest bits": codes[:, turned],
        "the halves of a lane are swapped: the even column is in the lower half": codes[:, column ^ 1],
        "columns are taken in the file's order (low halves, then high ones): here neighbours are a pair": codes[:, file_order],
        "the upper bits are left out": codes & 15,
        "the upper bits are not moved up by four": (codes & 15) | codes >> 4,
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


def mispacked(pairs, bits):
    each = 16 // bits
    groups = pairs.reshape(*pairs.shape[:2], 16 // each, each, 16, 2)
    top_first = groups[:, :, :, ::-1].reshape(pairs.shape)
    narrow = np.zeros_like(groups[:, :, :, 0])
    for i in range(each):
        narrow |= groups[:, :, :, i] << np.uint8(bits * i) if bits * i < 8 else np.uint8(0)
    return {
        "the first pair is put into the highest bits: it belongs into the lowest": halfwords(top_first, bits),
        "the two halves of a lane are swapped": halfwords(pairs[..., ::-1], bits),
        "codes are shifted as uint8: what is moved beyond bit 7 is lost": as_bytes(narrow),
        "only the last pair is left: earlier ones are overwritten": as_bytes(groups[:, :, :, -1].astype(int) << (16 - bits)),
        "only the first pair is there": as_bytes(groups[:, :, :, 0]),
        "all pairs lie in the lowest bits: pair i moves up by bits · i": as_bytes(np.bitwise_or.reduce(groups, axis=3)),
    }


def as_bytes(words):
    return np.ascontiguousarray(words.astype(np.uint16)).view(np.uint8).reshape(*words.shape[:2], -1)


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
