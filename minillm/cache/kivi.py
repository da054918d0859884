"""KIVI's cache: groups of 32 tokens sealed in a few bits, and the newest tokens in full.

    position    0 ………………… 31 │ 32 ……………… 63 │ 64 ……………… 95 │ 96 97 98
    kept as        sealed     │    sealed     │  sealed, and  │  in full       own group of token 98: 96 … 98
                              │               │    in full    │

What a query at position p sees: tokens of its own group (32 · floor(p / 32) … p) in float16, all before as they are sealed. That
is a rule of positions: a step whose queries span several groups attends group by group, and a prompt in pieces, a prefix found in
blocks of whole groups, and a request that is computed again see the same.

What is kept in full is more than a query needs: the group before, too. So a rejected draft of up to 32 tokens can be taken back
into a sealed group, which is then open again. Further back one can go to where a group begins, or not at all: truncatable().
The full tokens are a sequence's own (`window`), not its pages': whoever makes a cache anew for each step hands it on (`resume`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minillm.backends.ops import Ops
from minillm.cache.block_table import BlockTable
from minillm.cache.paged import PagedCache
from minillm.cache.protocol import Array
from minillm.cache.quantized import QuantizedCache, QuantizedStore
from minillm.errors import MiniLLMError, RequestError
from minillm.quantization.kivi import GROUP, KiviFormat


@dataclass(slots=True)
class Window:
    """The newest tokens of a sequence in full. Arrays are replaced and never written to, so copies may share them.

    first: position of the first token kept, for each layer. k, v: (n, kv_heads, d_head) float16, for each layer.
    """

    first: list[int]
    k: list[np.ndarray]
    v: list[np.ndarray]

    def copy(self) -> "Window":
        return Window(list(self.first), list(self.k), list(self.v))

    @property
    def end(self) -> int:
        """The position behind the last token, that of the layer which has fewest."""
        return min(first + len(k) for first, k in zip(self.first, self.k, strict=True))

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (*self.k, *self.v))

    def keep(self, layer: int, first: int, end: int) -> None:
        """Keep what it has of the positions first … end - 1, and drop the rest."""
        first = max(first, self.first[layer])
        span = slice(first - self.first[layer], end - self.first[layer])
        self.k[layer], self.v[layer], self.first[layer] = self.k[layer][span].copy(), self.v[layer][span].copy(), first


class KiviCache(QuantizedCache):
    """Keys and values of one sequence, in KIVI's format. A protocol.KVCache; `rows` hold the sealed groups.

    Errors: as QuantizedCache; RequestError where truncate would go back into a group that is not kept in full.
    """

    format: KiviFormat

    def __init__(self, rows: Any, format: KiviFormat, d_head: int) -> None:
        super().__init__(rows, format)
        self.window = empty_window(rows, d_head)

    @property
    def nbytes(self) -> int:
        """Bytes of the sealed groups, and of the window."""
        return self.rows.nbytes + self.window.nbytes

    def resume(self, window: Window) -> None:
        """Go on with the full tokens of the same sequence, up to where the cache ends."""
        if any(first > open_group(self.length) for first in window.first) or window.end != self.length:
            found = f"{max(window.first):,} to {window.end:,}"
            raise MiniLLMError(f"a {self.format.name} cache of {self.length:,} tokens goes on with its own group, found {found}.")
        self.window = window.copy()

    def make_room(self, n: int) -> None:
        """Allocate the memory for n more tokens now, for all layers."""
        self.rows.make_room(n)

    def indices(self, n: int) -> list[np.ndarray]:  # none
        """Make room for n more tokens. Which slots are written is known when a group is full."""
        self.make_room(n)
        return []

    def place(self, arrays: list[Array]) -> None:  # none
        """Ignore it: there was nothing to upload."""

    def append(self, layer: int, k: Array, v: Array) -> None:  # (n, kv_heads, d_head) twice
        """Keep n new tokens in full, and seal the groups that they complete."""
        window, start, end = self.window, self.lengths[layer], self.lengths[layer] + len(k)
        opened, sealed = open_group(start), open_group(end)
        if window.first[layer] > opened:
            raise MiniLLMError(f"position {start:,} is within a group whose tokens this {self.format.name} cache was not given.")
        more = [half(self.ops.download(x), self.format.name) for x in (k, v)]
        self.rows.make_room(end - self.length)
        for full, new in zip((window.k, window.v), more, strict=True):
            full[layer] = np.concatenate([full[layer], new])
        if sealed > opened:
            keys, values = (x.astype(np.float32) for x in self.full(layer, opened, sealed))
            self.lengths[layer] = opened
            rows = self.format.encode_keys(keys), self.format.encode_values(values)
            self.rows.append(layer, *self.ops.upload([*rows]))
        self.lengths[layer] = end

    def attend(self, ops: Ops, layer: int, q: Array) -> Array:  # (n_q, heads, d) -> (n_q, heads, d)
        """Attention of the newest tokens, group by group: each to its own group in full, and to all groups before as sealed."""
        end, out = self.lengths[layer], ops.empty(q.shape)
        start = end - len(q)
        sealed = self.sealed(layer, open_group(end - 1))
        # BEGIN SOLUTION ex=08.8
        for group in range(open_group(start), end, GROUP):
            first, last = max(start, group), min(end, group + GROUP)
            seen = [np.concatenate([a[:group], b]) for a, b in zip(sealed, self.full(layer, group, last), strict=True)]
            span = slice(first - start, last - start)
            out[span] = ops.attention(q[span], *ops.upload(seen))
        # END SOLUTION
        if min(self.lengths) == max(self.lengths):  # the step is complete
            self.trim()
        return out

    def full(self, layer: int, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:  # (end - first, kv_heads, d) float16 twice
        """Take positions first … end - 1 out of the window."""
        span = slice(first - self.window.first[layer], end - self.window.first[layer])
        return self.window.k[layer][span], self.window.v[layer][span]

    def sealed(self, layer: int, end: int) -> tuple[np.ndarray, np.ndarray]:  # (end, kv_heads, d) float32 twice
        """Decode the groups before position `end`, where one begins."""
        if not end:
            k, v = (x[:0].astype(np.float32) for x in (self.window.k[layer], self.window.v[layer]))
            return k, v
        k, v = (self.ops.download(rows[:end]) for rows in self.rows.read(layer))
        return self.format.decode_keys(k), self.format.decode_values(v)

    def read(self, layer: int) -> tuple[Array, Array]:  # (length, kv_heads, d_head) twice
        """Keys and values of one layer as the next token sees them: for tests and lessons."""
        end = self.lengths[layer]
        opened = open_group(end)
        pairs = zip(self.sealed(layer, opened), self.full(layer, opened, end), strict=True)
        k, v = (np.concatenate([sealed, full]) for sealed, full in pairs)
        return k, v

    def trim(self) -> None:
        """Keep the own group of the next token and the one before in full, no more. Between steps only."""
        for layer, end in enumerate(self.lengths):
            self.window.keep(layer, open_group(end) - GROUP, end)

    def truncatable(self, length: int) -> int:
        """Find the largest length, at most this one, that truncate can go to."""
        return length if length >= max(self.window.first) else open_group(length)

    def truncate(self, length: int) -> None:
        """Drop all tokens from `length` on, in every layer: into what is kept in full, or to where a group begins."""
        if 0 <= length <= self.length and (to := self.truncatable(length)) != length:
            raise RequestError(
                f"cannot truncate a {self.format.name} cache of {self.length:,} tokens to {length:,}: those from "
                f"{max(self.window.first):,} on are kept in full, others as groups of {GROUP}. Truncate to {to:,} first."
            )
        self.rows.truncate(length)
        for layer in range(len(self.lengths)):
            self.window.first[layer] = min(self.window.first[layer], length)  # nothing of the window is left: it begins anew here
            self.window.keep(layer, open_group(length) - GROUP, length)

    def fork(self) -> "KiviCache":
        """Make a second cache with the same content, independent from here on."""
        other = super().fork()
        other.window = self.window.copy()  # type: ignore[attr-defined]
        return other  # type: ignore[return-value]

    def free(self) -> None:
        """Free the blocks, and the full tokens with them."""
        self.rows.free()
        self.window = Window([0] * len(self.lengths), [x[:0] for x in self.window.k], [x[:0] for x in self.window.v])


def open_group(position: int) -> int:
    """Find where the group of a position begins."""
    return position // GROUP * GROUP


def half(x: np.ndarray, name: str) -> np.ndarray:  # float32 -> float16
    """Round to float16. MiniLLMError for NaN, infinity, and numbers beyond its range."""
    with np.errstate(over="ignore"):
        found = x.astype(np.float16)
    if not np.isfinite(found).all():
        bad = np.count_nonzero(~np.isfinite(found))
        raise MiniLLMError(f"a KV cache in {name} takes finite numbers up to 65,504; found {bad:,} of {x.size:,} others.")
    return found


def empty_window(rows: Any, d_head: int) -> Window:  # ContiguousRows or PagedCache
    """Make the window of a cache whose tokens are all sealed."""
    layers, kv_heads = len(rows.lengths), (rows.store.k if isinstance(rows, PagedCache) else rows.k).shape[-2]
    nothing = [np.empty((0, kv_heads, d_head), np.float16)] * layers
    return Window(list(rows.lengths), list(nothing), list(nothing))


class KiviStore(QuantizedStore):
    """Pages of sealed groups for all sequences of one model. Errors: RequestError where a block is no whole number of groups."""

    def __init__(
        self, layers: int, kv_heads: int, d_head: int, num_blocks: int, block_size: int, format: KiviFormat, **options: Any
    ) -> None:
        check_block_size(format.name, block_size)
        super().__init__(layers, kv_heads, d_head, num_blocks, block_size, format, **options)  # type: ignore[arg-type]
        self.d_head = d_head

    def cache_of(self, table: BlockTable, max_length: int | None = None, length: int | None = None) -> Any:  # KiviCache
        """Make a cache over a block table, at the beginning of a group or to be resumed."""
        rows = PagedCache(self, table, max_length, length)
        return KiviCache(rows, self.format, self.d_head)  # type: ignore[arg-type]


def check_block_size(name: str, block_size: int) -> None:
    """Refuse blocks that would cut a group."""
    if block_size < 1 or block_size % GROUP:
        raise RequestError(f"{name} seals groups of {GROUP} tokens: blocks need a multiple of {GROUP}, found {block_size:,}.")
