"""What a KV cache is: the one protocol of contiguous.py and paged.py, and of any that comes (quantized, tiered).

A cache holds the keys and values of one sequence, layer by layer. A forward pass appends each layer's new ones and attends to
all of them; the layout is the cache's own. Arrays are the backend's, on the device (backends/ops.py).

    make_room ─▶ indices ─▶ place ─▶ append, attend   for each layer      │  truncate, fork   between steps
    memory       on host    uploaded

`indices` and `place` exist so that a step needs one upload: the indices of a cache (slots, a block table) travel together with
the tokens of all sequences. A cache that was not given them uploads them itself.
"""

from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from minillm.backends.ops import Ops

Array = Any  # of the backend, on the device


@runtime_checkable
class KVCache(Protocol):
    """Keys and values of one sequence. Errors: RequestError beyond what it may hold, OutOfBlocks where memory is short now."""

    lengths: list[int]  # tokens held, per layer: within a step, early layers are ahead of late ones

    @property
    def length(self) -> int:
        """Tokens held in every layer: the position of the next one."""

    @property
    def nbytes(self) -> int:
        """Bytes of the memory it occupies, used or not."""

    def make_room(self, n: int) -> None:
        """Allocate the memory for n more tokens now, for all layers."""

    def indices(self, n: int) -> list["np.ndarray"]:  # int64, on the host
        """Make room for n more tokens, and return the indices that a step needs on the device, perhaps none."""

    def place(self, arrays: list[Array]) -> None:  # what `indices` gave, on the device
        """Take the uploaded indices, for the step that follows."""

    def append(self, layer: int, k: Array, v: Array) -> None:  # (n, kv_heads, d_head) twice
        """Add the keys and values of n new tokens to one layer, after those it holds."""

    def attend(self, ops: "Ops", layer: int, q: Array) -> Array:  # (n_q, heads, d_head) -> (n_q, heads, d_head)
        """Attention of the newest n_q tokens to all that one layer holds."""

    def read(self, layer: int) -> tuple[Array, Array]:  # (length, kv_heads, d_head) twice
        """Keys and values of one layer, in order: for tests and lessons. Do not write to them."""

    def pages(self) -> tuple[Array, Array, Array]:  # (layers, blocks, block_size, kv_heads, d_head) twice, block numbers
        """Return the memory as pages and a block table, for kernels that read any cache where it lies."""

    def truncatable(self, length: int) -> int:
        """Find the largest length, at most this one, that truncate can go to: for most caches this one (kivi.py)."""

    def truncate(self, length: int) -> None:
        """Drop all tokens from `length` on, in every layer: how a rejected draft is undone."""

    def fork(self) -> Self:
        """Make a second cache with the same content, independent from here on."""
