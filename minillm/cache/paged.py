"""The paged KV cache: one store of pages for all sequences, and a block table for each.

The store is two arrays, (layers, blocks, block_size, kv_heads, d_head) for keys and for values, taken once. Which block
belongs to whom is bookkeeping without arrays (block_pool, block_table); this module does what that decides: copies
blocks, and writes new tokens to their slots. A block number is the same in every layer, so one table serves them all.

    sequence A   table 7 2        ┌──┬──┬──┬──┬──┬──┬──┬──┐
    sequence B   table 7 5        │  │  │ A│  │  │ B│  │AB│     the first block, a common prompt, is stored once
                                  └──┴──┴──┴──┴──┴──┴──┴──┘
                                    0  1  2  3  4  5  6  7

Kwon et al. 2023 (PagedAttention), arXiv:2309.06180.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minillm.backends import numpy_
from minillm.backends.ops import Ops, ops_of
from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable, swap
from minillm.cache.protocol import Array
from minillm.errors import RequestError
from minillm.memory import refuse_beyond_memory


class PageStore:
    """Keys and values of all sequences of one model, and the pool that says which blocks are free.

    d_head: numbers of a head; a pair where keys and values are of different widths. dtype: float32, or float16 for half the
    bytes; bytes of a format in quantized.py. ops: the backend whose memory it is, NumPy's (the host's) by default.
    Errors: MiniLLMError where it would not fit in memory.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        d_head: int | tuple[int, int],
        num_blocks: int,
        block_size: int,
        dtype: Any = np.float32,
        watermark: int = 0,
        ops: Ops | None = None,
    ) -> None:
        shape, widths = (layers, num_blocks, block_size, kv_heads), (d_head, d_head) if isinstance(d_head, int) else d_head
        size = sum(widths) * int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        refuse_beyond_memory(size, f"a pool of {num_blocks:,} blocks of {block_size} tokens")
        self.pool = BlockPool(num_blocks, block_size, watermark)  # after the check: its lists take memory too
        self.ops = ops or ops_of(numpy_)
        self.k, self.v = (self.ops.zeros((*shape, width), dtype) for width in widths)

    @classmethod
    def for_model(cls, config: Any, num_blocks: int, block_size: int = 16, **options: Any) -> "PageStore":  # a ModelConfig
        """Make a store of a model's shape."""
        return cls(config.n_layers, config.n_kv_heads, config.d_head, num_blocks, block_size, **options)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages, used or not."""
        return self.k.nbytes + self.v.nbytes

    def new_cache(self, blocks: Sequence[int] = (), max_length: int | None = None) -> "PagedCache":
        """Make the cache of a new sequence. blocks: a match of a prefix cache, owned by this sequence from now on."""
        return self.cache_of(BlockTable(self.pool, blocks), max_length)

    def cache_of(self, table: BlockTable, max_length: int | None = None, length: int | None = None) -> "PagedCache":
        """Make a cache over a block table. length: tokens that are there, where the table has room for more already."""
        return PagedCache(self, table, max_length, length)

    def copy(self, pairs: list[tuple[int, int]], source: "PageStore | None" = None) -> None:  # [(from, to)]
        """Copy whole blocks, in every layer, in the order given; from another store where one is named, by way of the host."""
        source = source or self
        for a, b in pairs:
            k, v = source.k[:, a], source.v[:, a]
            if source.ops is not self.ops:
                k, v = self.ops.upload([source.ops.download(k), source.ops.download(v)])
            self.k[:, b], self.v[:, b] = k, v


class PagedCache:
    """Keys and values of one sequence, in pages. A protocol.KVCache, with `free` at the end."""

    def __init__(
        self, store: PageStore, table: BlockTable, max_length: int | None = None, length: int | None = None
    ) -> None:
        self.store, self.table, self.max_length = store, table, max_length
        length = table.length if length is None else length
        self.lengths = [length] * len(store.k)  # per layer: within a step, early layers are ahead of late ones
        self.made: dict = {}  # numbers of the table on the device, with what they were made of: once a step, not once a layer

    @property
    def length(self) -> int:
        """Tokens held in every layer."""
        return min(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks in its table, shared ones included."""
        return len(self.table.blocks) * self.store.nbytes // self.store.pool.num_blocks

    def append(self, layer: int, k: Array, v: Array) -> None:  # (n, kv_heads, d_head) twice
        """Add the keys and values of n new tokens to one layer. The first layer of a step takes the blocks for all."""
        start, end = self.lengths[layer], self.lengths[layer] + len(k)
        self.make_room(end - self.length)
        slots = self.on_device("slots", (start, end))
        # BEGIN SOLUTION ex=04.5
        for pages, new in ((self.store.k, k), (self.store.v, v)):
            by_slot = pages[layer].reshape(-1, *new.shape[1:])  # (blocks · block_size, kv_heads, d_head), the same memory
            by_slot[slots] = new
        self.lengths[layer] = end
        # END SOLUTION

    def make_room(self, n: int) -> None:
        """Allocate the blocks for n more tokens now, for all layers."""
        end = self.length + n
        if self.max_length is not None and end > self.max_length:
            raise RequestError(f"the KV cache holds {self.max_length:,} tokens, {end:,} were asked for.")
        if end > self.table.length:
            _, copies = self.table.append(end - self.table.length)
            self.store.copy(copies)

    def pages(self) -> tuple[Array, Array, Array]:  # (layers, blocks, block_size, kv_heads, d_head) twice, (blocks,)
        """Return the store's memory and this sequence's block table."""
        return self.store.k, self.store.v, self.table.blocks

    def read(self, layer: int) -> tuple[Array, Array]:  # (length, kv_heads, d_head) twice
        """Keys and values of one layer, in order: gathered into new arrays, for tests and for moving them elsewhere."""
        (slots,) = self.store.ops.upload([self.numbers("slots", (0, self.lengths[layer]))])
        return tuple(pages[layer].reshape(-1, *pages.shape[3:])[slots] for pages in (self.store.k, self.store.v))

    def attend(self, ops: Ops, layer: int, q: Array) -> Array:  # (n_q, heads, d) -> (n_q, heads, d)
        """Attention of the newest tokens to all that one layer holds, page by page."""
        table = self.on_device("blocks")
        return ops.paged_attention(q, self.store.k[layer], self.store.v[layer], table, self.lengths[layer])

    def indices(self, n: int) -> list[np.ndarray]:  # slots of n more tokens, block table
        """Make room for n more tokens, and return their slots."""
        self.make_room(n)
        return [self.numbers("slots", (self.length, self.length + n)), self.numbers("blocks")]

    def place(self, arrays: list[Array]) -> None:  # slots, block table
        """Take the uploaded slots and block table, for all layers of the step."""
        slots, blocks = arrays
        span = self.length, self.length + len(slots)
        self.made = {"slots": ((span, self.table.changes), slots), "blocks": (((), self.table.changes), blocks)}

    def numbers(self, name: str, span: Sequence[int] = ()) -> np.ndarray:  # "slots" or "blocks" -> (n,) int64 on the host
        return np.array(self.table.slots(*span) if name == "slots" else self.table.blocks, np.int64)

    def on_device(self, name: str, span: Sequence[int] = ()) -> Array:  # (n,) int64
        """Return the arrays that `place` gave; upload them here where there were none, or where tokens or blocks have changed."""
        of = span, self.table.changes
        if name not in self.made or self.made[name][0] != of:
            self.made[name] = of, self.store.ops.upload([self.numbers(name, span)])[0]
        return self.made[name][1]

    def truncatable(self, length: int) -> int:
        """Find the largest length, at most this one, that truncate can go to."""
        return length

    def truncate(self, length: int) -> None:
        """Drop all tokens from `length` on, in every layer, and give back the blocks that held nothing else."""
        if not 0 <= length <= self.length:
            raise RequestError(f"cannot truncate a cache of {self.length:,} tokens to {length:,}.")
        self.table.truncate(length)
        self.lengths = [length] * len(self.lengths)

    def fork(self) -> "PagedCache":
        """Make a second cache with the same content: both own the same blocks, and the first to write copies one."""
        other = PagedCache(self.store, self.table.fork(), self.max_length)
        other.lengths = list(self.lengths)
        return other

    def free(self) -> None:
        """Free the blocks: the sequence is done, or preempted."""
        self.table.free()
        self.lengths = [0] * len(self.lengths)


def move_to_store(caches: list[PagedCache], store: PageStore) -> None:
    """Swap caches to another store (host memory, and back); blocks that they share stay shared."""
    old = caches[0].store
    store.copy(swap([c.table for c in caches], store.pool), source=old)
    for cache in caches:
        cache.store = store
