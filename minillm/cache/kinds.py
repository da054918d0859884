"""What keys and values are kept in, by name; and a cache, or a store of pages, that keeps them so.

    float32  float16     numbers                           contiguous.py, paged.py
    int8  fp8            8 bits, a scale for each row      quantized.py
    int4  rot4           4 bits, scale and minimum         quantized.py; rot4 rotated by Hadamard's matrix
    kivi2  kivi4         groups of 32 tokens               kivi.py

Bytes of each: costs.memory.kv_bits.
"""

from typing import Any

import numpy as np

from minillm.backends import numpy_
from minillm.backends.ops import Ops, ops_of
from minillm.cache.contiguous import ContiguousCache
from minillm.cache.kivi import KiviCache, KiviStore, check_block_size
from minillm.cache.paged import PageStore
from minillm.cache.protocol import KVCache
from minillm.cache.quantized import ContiguousRows, QuantizedCache, QuantizedStore
from minillm.costs.memory import kv_bits
from minillm.quantization.kivi import GROUP, KIVI
from minillm.quantization.kv_formats import FORMATS

BLOCK_SIZE = 16  # tokens of a block, where nobody says


def check_kv(name: str, d_head: int | None = None, block_size: int | None = None) -> str:  # -> name
    """Refuse a name that is none, and a format that heads or blocks do not fit."""
    kv_bits(name, d_head or 1)
    if d_head is not None and (made := FORMATS.get(name) or KIVI.get(name)):
        made.widths(d_head)
    if block_size is not None and name in KIVI:
        check_block_size(name, block_size)
    return name


def block_size_for(name: str) -> int:
    """Choose the tokens of a block where nobody says: 16, or a group of KIVI's."""
    return GROUP if name in KIVI else BLOCK_SIZE


def new_cache(config: Any, name: str = "float32", ops: Ops | None = None, layers: int | None = None) -> KVCache:  # a ModelConfig
    """Make an empty contiguous cache of a model's shape; layers: of so many in place of all."""
    layers, c, ops = layers or config.n_layers, config, ops or ops_of(numpy_)
    made = FORMATS.get(name) or KIVI.get(name)
    if made is None:
        return ContiguousCache(layers, c.n_kv_heads, c.d_head, c.context_length, np.dtype(check_kv(name)).type, ops)
    rows = ContiguousRows(layers, c.n_kv_heads, c.d_head, c.context_length, ops=ops, widths=made.widths(c.d_head))
    return KiviCache(rows, KIVI[name], c.d_head) if name in KIVI else QuantizedCache(rows, made)


def new_store(  # a ModelConfig -> PageStore
    config: Any, name: str = "float32", num_blocks: int = 1, block_size: int | None = None, ops: Ops | None = None
) -> PageStore:
    """Make the pages of a model's shape. MiniLLMError where heads or blocks do not fit the format, or memory is short."""
    size = block_size_for(name) if block_size is None else block_size
    if name in KIVI:
        return KiviStore.for_model(config, num_blocks, size, format=KIVI[name], ops=ops)
    if name in FORMATS:
        return QuantizedStore.for_model(config, num_blocks, size, format=FORMATS[name], ops=ops)
    return PageStore.for_model(config, num_blocks, size, dtype=np.dtype(check_kv(name)), ops=ops)


def without_kernels(name: str, ops: Ops) -> bool:
    """Whether a compiled backend has no kernel for a format, so that its rows become floats for each step."""
    return name not in ("float32", "float16") and name not in ops.kv_formats and ops.name != "numpy"

