"""llama.cpp's quantizer, for the scripts beside this one that record what it does. Needs llama-cpp-python, no code of minillm."""

import ctypes

import gguf
import llama_cpp
import numpy as np


@llama_cpp.llama_log_callback
def quiet(*_):
    pass


llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))


def quantize(source, out, file_type, imatrix=None, pure=False, threads=2):
    """Write `source` as `out`. file_type: llama.cpp's number of a mix. imatrix: {name: (columns,) float32 means}."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.pure, params.allow_requantize = file_type, threads, pure, True
    if imatrix is not None:
        kept = [(name.encode(), np.ascontiguousarray(values, np.float32)) for name, values in imatrix.items()]
        rows = (llama_cpp.llama_model_imatrix_data * (len(kept) + 1))()
        for row, (name, values) in zip(rows, kept, strict=False):
            row.name, row.size = name, values.size
            row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = rows
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama.cpp does not quantize {source} to {file_type}")
    return out


def types(path):  # -> {name of a tensor: its type}
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
