"""Attention of all short segments of a step in one call a layer: what the kernel (rows.py) must know, collected once per step.

A step asks each sequence's cache where its keys lie: addresses, block tables, lengths. That is the same for all layers but
for the distance from one to the next. Longer segments (prefill, chunks) in the same step go the plain way (backends/step.py).
"""


import numpy as np

from minillm.attention.shapes import check_finite
from minillm.backends import step
from minillm.backends.numba_.crossover import SHORT
from minillm.backends.numba_.decode import split_keys
from minillm.backends.numba_.kv_rows import FLOATS, KV_FORMATS
from minillm.backends.numba_.layer import Rotation
from minillm.backends.numba_.pages import EVERYTHING
from minillm.backends.numba_.rows import Caches, attend_batch
from minillm.backends.numba_.team import team, threads
from minillm.errors import MiniLLMError

# By the bytes of a number in a cache; Numba knows no float16. One byte: rows of codes.
LIKE = {4: np.empty(0, np.float32), 2: np.empty(0, np.uint16), 1: np.empty(0, np.uint8)}


class AttentionStep(step.AttentionStep):
    """As backends/step.py; segments of at most SHORT tokens are batched."""

    def __init__(self, ops, segments, spans):
        super().__init__(ops, segments, spans)
        short = [len(s.tokens) <= SHORT for s in segments]
        self.together = can_batch([s.cache for s, is_short in zip(segments, short, strict=True) if is_short])
        if self.together:
            pairs = list(zip(segments, spans, short, strict=True))
            self.batched = [s for s, _, is_short in pairs if is_short]
            self.rows = np.concatenate([np.arange(span.start, span.stop) for _, span, is_short in pairs if is_short])
            self.segments, self.spans = ([pair[i] for pair in pairs if not pair[2]] for i in (0, 1))
            self.collect()

    def collect(self):
        """Collect what the kernels read of the caches, once for all layers."""
        counts = np.array([len(s.tokens) for s in self.batched])
        caches = self.caches = [s.cache for s in self.batched]
        for cache, count in zip(caches, counts, strict=True):
            cache.make_room(int(count))
        pages = [cache.pages() for cache in caches]
        k, width = pages[0][0], pages[0][0].itemsize
        tables = np.zeros((len(pages), max(len(table) for _, _, table in pages)), np.int64)
        for row, (_, _, table) in zip(tables, pages, strict=True):
            row[: len(table)] = table
        places = np.array([(k.ctypes.data, v.ctypes.data, k.strides[0]) for k, v, _ in pages]).T.copy()
        lengths, groups = np.array([cache.length + 1 for cache in caches]), np.arange(len(caches) + 1)
        if counts.max() > 1:
            before = np.repeat(counts.cumsum() - counts, counts)  # rows before a row's segment
            places, tables = np.repeat(places, counts, axis=1), np.repeat(tables, counts, axis=0)
            lengths = np.repeat(lengths, counts) + np.arange(len(before)) - before
            groups = groups_of(lengths, counts)
        size, strides = k.shape[2] if k.shape[1] > 1 else EVERYTHING, np.array(k.strides[1:4]) // width
        self.format = getattr(caches[0], "format", None)
        number = self.format.number if self.format else FLOATS
        self.where = Caches(*places, LIKE[width], strides, tables, size, lengths, groups, number)

    def indices(self):
        """Return none: the kernels read what `collect` found, and longer segments ask their caches."""
        return []

    def place(self, arrays):
        """Ignore it: there is nothing to upload."""

    def attend(self, layer, q, k, v):
        if not self.together:
            return super().attend(layer, q, k, v)
        every = len(self.rows) == len(q)
        mine = [x if every else x[self.rows] for x in (q, k, v)]
        qkv = np.concatenate([x.reshape(len(self.rows), -1) for x in mine], axis=1, dtype=np.float32)
        out = np.empty(mine[0].shape, np.float32)
        rotation = Rotation(q.shape[1], k.shape[1], q.shape[2], NO_ANGLES, NO_ANGLES, False, False)
        with team() as words:
            good = attend_batch(words, threads(), qkv, rotation, self.where, layer, out.reshape(len(qkv), -1))
        for segment in self.batched:
            segment.cache.lengths[layer] += len(segment.tokens)
        if not good:
            self.refuse(out, *mine)
        if every:
            return out
        looked_up = super().attend(layer, q, k, v)
        looked_up[self.rows] = out
        return looked_up

    def refuse(self, out=None, q=None, k=None, v=None):
        """Raise what is wrong with what a kernel found to be so: inputs are None where they never were in Python."""
        if q is not None:
            for x in (k, v) if self.format else ():
                self.format.encode(x)
            check_finite(out, q=q, k=k, v=v)
        if self.format:
            raise MiniLLMError(
                f"a KV cache in {self.format.name} takes finite numbers, and ranges within float16's: a key or value has others, "
                "or attention overflowed float32."
            )
        check_finite(np.full(1, np.nan))

    def done(self):
        """Note that all layers have been attended to, in one call (stack.py)."""
        for segment in self.batched:
            segment.cache.lengths = [length + len(segment.tokens) for length in segment.cache.lengths]


NO_ANGLES = np.empty((1, 0), np.float32)


def groups_of(lengths, counts):  # (rows,), (segments,) -> (groups + 1,)
    """Find where groups begin: with each segment, and where the next row's keys are cut at other places."""
    begins = np.zeros(len(lengths) + 1, bool)
    begins[np.concatenate([[0], np.cumsum(counts)])] = True
    begins[1:-1] |= np.diff([split_keys(int(n)) for n in lengths]) != 0
    return np.flatnonzero(begins)


def can_batch(caches):
    """Whether there are caches of one shape, of floats or rows that kernels read, with heads of whole registers, none twice."""
    if not caches or not all(hasattr(cache, "pages") for cache in caches):
        return False
    kinds = set()
    for cache in caches:
        k, format = cache.pages()[0], getattr(cache, "format", None)
        blocks = k.shape[1:3] + k.strides[:2] if k.shape[1] > 1 else ()  # a cache of one block may be of any length
        kinds.add((k.dtype.str, k.shape[0], *k.shape[3:], *k.strides[2:], blocks, format))
    dtype, _, _, d, *_, format = next(iter(kinds))
    if format:
        d = (d - 2 * format.halves) * 8 // format.bits if format.name in KV_FORMATS else 1
    return len(kinds) == 1 and dtype in ("<f4", "<f2", "|u1") and d % 16 == 0 and len(set(map(id, caches))) == len(caches)
