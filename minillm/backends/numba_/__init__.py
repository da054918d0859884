"""The Numba backend: kernels compiled on first use, for the cores and vector registers of this machine.

Attention so far, in files to be read after attention/flash.py: `simd.py` and `loops.py` (the vocabulary),
`online.py`, `prefill.py` and `decode.py`. Everything else is handed on from the NumPy backend.

Compiled code is kept in __pycache__, and Numba looks at the file of the outermost kernel alone to see whether it is stale:
after editing simd.py, loops.py or online.py, touch prefill.py and decode.py.
"""

from minillm.backends.numba_.attention import attention, flash_attention, split_kv_attention
from minillm.backends.numpy_ import embed, linear, load_matrix, rms_norm, rope, rope_angles, swiglu

__all__ = [
    "attention",
    "embed",
    "flash_attention",
    "linear",
    "load_matrix",
    "rms_norm",
    "rope",
    "rope_angles",
    "split_kv_attention",
    "swiglu",
]
