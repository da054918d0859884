"""Record what flows into each matrix in llama.cpp: the sums of squares that its imatrix tool would write, for the written models.

    PYTHONPATH=../.. python written_models.py FOLDER
    python record_imatrix.py FOLDER [OUT.json]

The second step needs llama-cpp-python and runs no code of minillm. llama.cpp calls back after each operation of its graph; where
it was a product, its second operand is the input. Kept: the sum over two chunks, column by column.
"""

import ctypes
import importlib.metadata
import json
import pathlib
import sys

import llama_cpp
import numpy as np
from llama_cpp_logits import Model

CHUNKS = [[(7 * i + 13 * c) % 300 for i in range(24)] for c in range(2)]  # token ids
MODELS = ("llama_f32", "llama_bytes", "qwen2", "qwen3")
LIBRARY = next(pathlib.Path(llama_cpp.__file__).parent.rglob("libggml-base.so*"))


class Tensor(ctypes.Structure):
    """ggml.h, struct ggml_tensor."""

    _fields_ = [
        ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32), ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p), ("view_offs", ctypes.c_size_t), ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64),
    ]  # fmt: skip


def op_name(tensor):
    base = ctypes.CDLL(str(LIBRARY))
    base.ggml_op_desc.restype, base.ggml_op_desc.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    return base.ggml_op_desc(tensor).decode()


def sums_of(path):  # -> {name of a matrix: [sum of the squares of its inputs, for each column]}
    sums = {}

    def seen(address, ask, _):
        tensor = Tensor.from_address(address)
        weight = Tensor.from_address(tensor.src[0]).name.decode() if tensor.src[0] else ""
        wanted = op_name(address) == "MUL_MAT" and weight.startswith("blk.")
        if wanted and not ask:
            x = Tensor.from_address(tensor.src[1])
            assert x.type == 0 and x.nb[1] == 4 * x.ne[0], f"{weight}: its input is not rows of F32"
            rows = np.ctypeslib.as_array(ctypes.cast(x.data, ctypes.POINTER(ctypes.c_float)), (x.ne[1], x.ne[0]))
            sums[weight] = sums.get(weight, 0) + (rows.astype(np.float64) ** 2).sum(axis=0)
        return wanted or not ask

    callback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)(seen)
    model = Model(path, callback)
    for chunk in CHUNKS:
        model.logits(chunk)
    model.close()
    return {name: [float(f"{value:.7g}") for value in found] for name, found in sorted(sums.items())}


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else pathlib.Path(__file__).parent / "imatrix.json"
    lines = [f"{json.dumps(name)}: {json.dumps(sums_of(pathlib.Path(sys.argv[1]) / f'{name}.gguf'))}" for name in MODELS]
    version = json.dumps(importlib.metadata.version("llama-cpp-python"))
    chunks = json.dumps(CHUNKS)
    out.write_text(f'{{"llama-cpp-python": {version}, "chunks": {chunks}, "sums": {{\n' + ",\n".join(lines) + "\n}}\n")
