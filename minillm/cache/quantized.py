"""A quantized KV cache: a cache of bytes, and a format that says what a row of them means.

    append   k, v ─ encode ─▶ rows of bytes ─ written where k and v would be       each token for itself, once, for good
    attend   rows ─ decode ─▶ float32 ─ ops.attention ─▶ output                     or a kernel that reads the rows where they lie

What lies in memory changes in type and width alone, (…, kv_heads, width) uint8 in place of (…, kv_heads, d_head) float. So what
moves rows knows nothing of it: block tables, copy-on-write, prefix caches, swaps to the host carry the bytes unchanged. And since
every token is encoded when it is appended and looked at through its code from then on, even in the step that brings it, what a
query sees depends on positions alone: whole, chunked, paged, recomputed, it is the same.

rot4 keeps keys and values along other axes (quantization/kv_formats.py): queries are turned likewise, and outputs back.
A kernel finds what it needs here: `pages()` gives the bytes, `format` their meaning (name, number).
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from minillm.backends.ops import Ops
from minillm.cache.block_table import BlockTable
from minillm.cache.contiguous import FIRST_CAPACITY, ContiguousCache
from minillm.cache.paged import PagedCache, PageStore
from minillm.cache.protocol import Array
from minillm.errors import RequestError
from minillm.quantization.kv_formats import KVFormat


@dataclass
class ContiguousRows(ContiguousCache):
    """A contiguous cache of bytes. widths: bytes of a row of keys and of a row of values, which may differ."""

    widths: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.dtype, self.lengths = np.uint8, [0] * self.layers
        self.k, self.v = (self.ops.empty((self.layers, 0, self.kv_heads, width), np.uint8) for width in self.widths)

    def reserve(self, tokens: int) -> None:
        """Make room for this many tokens in all, as ContiguousCache does."""
        capacity = self.k.shape[1]
        if tokens > self.max_length:
            raise RequestError(f"the KV cache holds {self.max_length:,} tokens, {tokens:,} were asked for.")
        if tokens > capacity:
            more = min(self.max_length, max(tokens, 2 * capacity, FIRST_CAPACITY))
            for name in "kv":
                old = getattr(self, name)
                new = self.ops.empty((self.layers, more, self.kv_heads, old.shape[3]), np.uint8)
                new[:, :capacity] = old
                setattr(self, name, new)

    def fork(self) -> "ContiguousRows":
        """Make a second cache with the same content, independent from here on."""
        other = copy.copy(self)
        other.k, other.v, other.lengths = self.k.copy(), self.v.copy(), list(self.lengths)
        return other


class QuantizedCache:
    """Keys and values of one sequence in a format of rows. A protocol.KVCache. rows: the bytes, contiguous or paged.

    Errors: as `rows`; MiniLLMError for keys or values that are NaN, infinite, or too large for a float16 scale.
    """

    def __init__(self, rows: Any, format: Any) -> None:  # ContiguousRows or PagedCache; KVFormat or KiviFormat
        self.rows, self.format = rows, format

    @property
    def lengths(self) -> list[int]:
        """Tokens held, per layer."""
        return self.rows.lengths

    @lengths.setter
    def lengths(self, lengths: list[int]) -> None:
        self.rows.lengths = lengths

    @property
    def length(self) -> int:
        """Tokens held in every layer."""
        return self.rows.length

    @property
    def nbytes(self) -> int:
        """Bytes of the memory it occupies, used or not."""
        return self.rows.nbytes

    @property
    def ops(self) -> Ops:
        """The backend whose arrays the bytes are."""
        return self.rows.store.ops if isinstance(self.rows, PagedCache) else self.rows.ops

    def make_room(self, n: int) -> None:
        """Allocate the memory for n more tokens now, for all layers."""
        self.rows.make_room(n)

    def indices(self, n: int) -> list[np.ndarray]:
        """Make room for n more tokens, and return what `rows` needs on the device."""
        return self.rows.indices(n)

    def place(self, arrays: list[Array]) -> None:
        """Take the uploaded indices."""
        self.rows.place(arrays)

    def append(self, layer: int, k: Array, v: Array) -> None:  # (n, kv_heads, d_head) twice
        """Encode the keys and values of n new tokens, and add the rows to one layer."""
        if self.ops.encode_kv and self.format.name in self.ops.kv_formats:
            rows = [self.ops.encode_kv(x, self.format) for x in (k, v)]
        else:
            rows = self.on_host(self.format.encode, k, v)
        self.rows.append(layer, *rows)

    def attend(self, ops: Ops, layer: int, q: Array) -> Array:  # (n_q, heads, d) -> (n_q, heads, d)
        """Attention of the newest tokens to all that one layer holds: over its rows, or else by way of floats."""
        if ops.quantized_attention and self.format.name in ops.kv_formats:
            k, v, table = self.pages()
            return ops.quantized_attention(q, k[layer], v[layer], table, self.lengths[layer], self.format)
        (turned,) = self.on_host(self.format.rotate, q)
        out = ops.attention(turned, *self.on_host(self.format.decode, *self.rows.read(layer)))
        return self.on_host(self.format.rotate, out)[0]

    def read(self, layer: int) -> tuple[Array, Array]:  # (length, kv_heads, d_head) twice
        """Decode the keys and values of one layer, in order: for tests and lessons."""
        k, v = self.on_host(lambda rows: self.format.rotate(self.format.decode(rows)), *self.rows.read(layer))
        return k, v

    def pages(self) -> tuple[Array, Array, Array]:  # (layers, blocks, block_size, kv_heads, width) uint8 twice, block numbers
        """Return the memory as pages of bytes and a block table."""
        return self.rows.pages()

    def truncatable(self, length: int) -> int:
        """Find the largest length, at most this one, that truncate can go to."""
        return self.rows.truncatable(length)

    def truncate(self, length: int) -> None:
        """Drop all tokens from `length` on, in every layer."""
        self.rows.truncate(length)

    def fork(self) -> "QuantizedCache":
        """Make a second cache with the same content, independent from here on."""
        other = copy.copy(self)
        other.rows = self.rows.fork()
        return other

    def on_host(self, function: Any, *arrays: Array) -> list[Array]:  # (array -> array), arrays -> arrays
        """Compute in NumPy, whatever machine the arrays are on."""
        return self.ops.upload([function(self.ops.download(x)) for x in arrays])

    # --- of a paged one ---------------------------------------------------------------------------------------------------------

    @property
    def table(self) -> BlockTable:
        """The block table, where `rows` are paged."""
        return self.rows.table

    @property
    def store(self) -> PageStore:
        """The store of its pages."""
        return self.rows.store

    @store.setter
    def store(self, store: PageStore) -> None:
        self.rows.store = store

    def free(self) -> None:
        """Free the blocks."""
        self.rows.free()


class QuantizedStore(PageStore):
    """Pages of bytes for all sequences of one model, in one format of rows. d_head: numbers of a head, as in a PageStore."""

    def __init__(
        self, layers: int, kv_heads: int, d_head: int, num_blocks: int, block_size: int, format: KVFormat, **options: Any
    ) -> None:
        super().__init__(layers, kv_heads, format.widths(d_head), num_blocks, block_size, dtype=np.uint8, **options)
        self.format = format

    def cache_of(self, table: BlockTable, max_length: int | None = None, length: int | None = None) -> Any:  # QuantizedCache
        """Make a quantized cache over a block table."""
        return QuantizedCache(PagedCache(self, table, max_length, length), self.format)
