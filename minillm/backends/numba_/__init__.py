"""The Numba backend: kernels compiled on first use, for the cores and vector registers of this machine.

    simd, loops               the vocabulary: sixteen numbers at a time, and inner loops that stay in registers
    online, prefill, decode   attention, after attention/flash.py; `attention` is its front door
    rows, batch               attention of all short segments of a step in one call
    kv_codes, kv_rows         quantized keys and values: codes in registers; rows of bytes, written and read
    kv_tiles                  scores and sums of a tile, over numbers or over rows
    pages                     where the keys and values lie: in the blocks of a table, or in one piece
    packed, layouts           how weights lie in memory so that a register holds sixteen rows; what of, for each type
    tile, records, bands      weights times tokens: the innermost step, what it reads, the loop around it
    multiply, linear          the matrices of a region; one matrix
    floats, levels            the same for weights in float16 and float32; for codes that name float levels
    layer                     half a layer in one call
    stack                     all layers of a step in one call
    thin                      adapters, within the kernels of layer and stack
    block_sums                what a draw wants to know of a row of logits
    invariant                 one order of additions for every batch
    team, tasks, atomics      the threads, how they share their work, and what that takes
    compiled                  where machine code is kept between runs
"""

from minillm.backends.numba_.attention import (
    attention,
    flash_attention,
    paged_attention,
    quantized_attention,
    split_kv_attention,
)
from minillm.backends.numba_.batch import AttentionStep
from minillm.backends.numba_.block_sums import block_sums
from minillm.backends.numba_.compiled import compiling, ready
from minillm.backends.numba_.invariant import invariant
from minillm.backends.numba_.kv_rows import KV_FORMATS as kv_formats
from minillm.backends.numba_.kv_rows import encode_kv
from minillm.backends.numba_.layer import add_feed_forward, attention_inputs
from minillm.backends.numba_.linear import add_linear, embed, int8_activations, linear, load_matrix
from minillm.backends.numba_.stack import Layers as prepare_layers
from minillm.backends.numba_.stack import run_layers
from minillm.backends.numba_.team import state
from minillm.backends.numba_.thin import RoutedLayers as routed_layers
from minillm.backends.numpy_ import download, empty, most_likely, upload, zeros
from minillm.layers import rms_norm, rope_angles

kv_dtype = "float16"  # half the bytes that a decode step reads

__all__ = [
    "AttentionStep",
    "add_feed_forward",
    "add_linear",
    "attention",
    "attention_inputs",
    "block_sums",
    "compiling",
    "download",
    "embed",
    "empty",
    "encode_kv",
    "flash_attention",
    "int8_activations",
    "invariant",
    "kv_dtype",
    "kv_formats",
    "linear",
    "load_matrix",
    "most_likely",
    "paged_attention",
    "prepare_layers",
    "quantized_attention",
    "ready",
    "rms_norm",
    "rope_angles",
    "routed_layers",
    "run_layers",
    "split_kv_attention",
    "state",
    "upload",
    "zeros",
]
