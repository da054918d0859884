"""The KV cache in its plainest form: one growing array of keys and one of values per sequence.

A token's keys and values depend on the tokens before it and on nothing after it, so they never change once computed.
Keep them, and the next token costs one token's work instead of the whole sequence's. The price is memory that grows
with every token, and that must be read in full for each new one: from here on, decoding is a matter of bandwidth.

    bytes per token = 2 (K and V) × layers × kv_heads × d_head × bytes per value

Every cache of this project answers the same calls: protocol.py.
"""

from dataclasses import dataclass, field

import numpy as np

from minillm.backends import numpy_
from minillm.backends.ops import Ops, ops_of
from minillm.cache.protocol import Array
from minillm.errors import RequestError

FIRST_CAPACITY = 64  # tokens


@dataclass
class ContiguousCache:
    """Keys and values of one sequence, in arrays of shape (layers, capacity, kv_heads, d_head).

    max_length: tokens it may ever hold (the model's context). dtype: float32, or float16 for half the bytes, rounded.
    ops: the backend whose arrays they are, NumPy by default. Errors: RequestError beyond max_length.
    """

    layers: int
    kv_heads: int
    d_head: int
    max_length: int
    dtype: type = np.float32
    ops: Ops = field(default_factory=lambda: ops_of(numpy_), repr=False)
    k: np.ndarray = field(init=False, repr=False)
    v: np.ndarray = field(init=False, repr=False)
    lengths: list[int] = field(init=False, repr=False)  # per layer: within a step, early layers are ahead of late ones

    def __post_init__(self) -> None:
        self.k, self.v = (self.ops.empty((self.layers, 0, self.kv_heads, self.d_head), self.dtype) for _ in "kv")
        self.lengths = [0] * self.layers

    @property
    def length(self) -> int:
        """Tokens held in every layer."""
        return min(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes reserved, used or not."""
        return self.k.nbytes + self.v.nbytes

    def reserve(self, tokens: int) -> None:
        """Make room for this many tokens in all, where there is less: new arrays, with all that the old ones hold.

        An array cannot grow where it lies, so each new one copies the rows that were there. The new size is such that n tokens
        that come one by one copy fewer than 2n rows in all, whatever n is, and that at most half of the room stands empty: but
        FIRST_CAPACITY at least, and never beyond max_length. self.ops.empty(shape, dtype) makes an array of the backend.
        """
        capacity = self.k.shape[1]
        if tokens > self.max_length:
            raise RequestError(f"the KV cache holds {self.max_length:,} tokens, {tokens:,} were asked for.")
        # BEGIN SOLUTION ex=02.3
        if tokens <= capacity:
            return
        shape = self.layers, min(self.max_length, max(tokens, 2 * capacity, FIRST_CAPACITY)), self.kv_heads, self.d_head
        k, v = self.ops.empty(shape, self.dtype), self.ops.empty(shape, self.dtype)
        k[:, :capacity], v[:, :capacity] = self.k, self.v
        self.k, self.v = k, v
        # END SOLUTION

    def append(self, layer: int, k: Array, v: Array) -> None:  # (n, kv_heads, d_head) twice
        """Add the keys and values of n new tokens to one layer, after those it holds."""
        # BEGIN SOLUTION ex=02.1
        start = self.lengths[layer]
        end = start + len(k)
        self.reserve(end)
        self.k[layer, start:end] = k
        self.v[layer, start:end] = v
        self.lengths[layer] = end
        # END SOLUTION

    def read(self, layer: int) -> tuple[Array, Array]:  # (length, kv_heads, d_head) twice
        """Views of the keys and values that one layer holds, in order. No copy: do not write to them."""
        # BEGIN SOLUTION ex=02.2
        end = self.lengths[layer]
        return self.k[layer, :end], self.v[layer, :end]
        # END SOLUTION

    def make_room(self, n: int) -> None:
        """Allocate the memory for n more tokens now, for all layers."""
        self.reserve(self.length + n)

    def indices(self, n: int) -> list[np.ndarray]:  # none
        """Make room for n more tokens. They go after the old ones: there is nothing to look up."""
        self.make_room(n)
        return []

    def place(self, arrays: list[Array]) -> None:  # none
        """Ignore it: there was nothing to upload."""

    def pages(self) -> tuple[Array, Array, Array]:  # (layers, 1, capacity, kv_heads, d_head) twice, (0,)
        """Return the memory as pages and a block table, for kernels that read both kinds of cache: here one block."""
        return self.k[:, None], self.v[:, None], (0,)

    def attend(self, ops: Ops, layer: int, q: Array) -> Array:  # (n_q, heads, d) -> (n_q, heads, d)
        """Attention of the newest tokens to all that one layer holds."""
        return ops.attention(q, *self.read(layer))

    def truncatable(self, length: int) -> int:
        """Find the largest length, at most this one, that truncate can go to."""
        return length

    def truncate(self, length: int) -> None:
        """Drop all tokens from `length` on, in every layer: how a rejected draft is undone. Frees no memory."""
        if not 0 <= length <= self.length:
            raise RequestError(f"cannot truncate a cache of {self.length:,} tokens to {length:,}.")
        self.lengths = [length] * self.layers

    def fork(self) -> "ContiguousCache":
        """Make a second cache with the same content, independent from here on (a copy; paging shares instead)."""
        # BEGIN SOLUTION ex=02.4
        other = ContiguousCache(self.layers, self.kv_heads, self.d_head, self.max_length, self.dtype, self.ops)
        other.k, other.v = self.k.copy(), self.v.copy()
        other.lengths = list(self.lengths)
        return other
        # END SOLUTION
