"""The Numba backend: kernels compiled on first use, for the cores and vector registers of this machine.

    simd, loops               the vocabulary: sixteen numbers at a time, and inner loops that stay in registers
    online, prefill, decode   attention, after attention/flash.py; `attention` is its front door
    packed                    how weights lie in memory so that a register holds sixteen rows
    tile, linear, layer       weights times tokens: the innermost step, a matrix, half a layer
    compiled                  where machine code is kept between runs
"""

from minillm.attention.paged import paged_attention
from minillm.backends.numba_.attention import attention, flash_attention, split_kv_attention
from minillm.backends.numba_.layer import add_feed_forward, attention_inputs
from minillm.backends.numba_.linear import add_linear, embed, linear, load_matrix
from minillm.layers import rms_norm, rope_angles

__all__ = [
    "add_feed_forward",
    "add_linear",
    "attention",
    "attention_inputs",
    "embed",
    "flash_attention",
    "linear",
    "load_matrix",
    "paged_attention",
    "rms_norm",
    "rope_angles",
    "split_kv_attention",
]
