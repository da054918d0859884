"""Record what ggml's quantizers make of the weights in quantizer_draws.py and of tiny's: bytes by their hash, and errors.

    python record_quantizers.py [OUT.json]

Needs llama-cpp-python, whose libggml-base is called through ctypes, and gguf; no minillm code runs here. Types that must come
out the same are recorded as SHA-256 of their bytes, and the gguf package's own quantizers must say the same; types with a search
for scales as the error that is left, in the plain measure and in ggml's own, with and without an importance matrix.
"""

import ctypes
import hashlib
import json
import pathlib
import sys
from importlib.metadata import version

import gguf
import llama_cpp
import numpy as np
import quantizer_draws as draws
from gguf import GGMLQuantizationType

TINY = pathlib.Path(__file__).parents[2] / "data" / "models" / "tiny.gguf"
LIBRARY = pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"


def quantizer():
    chunk = ctypes.CDLL(str(LIBRARY)).ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    long, pointer = ctypes.c_int64, ctypes.c_void_p
    chunk.argtypes = [ctypes.c_int, pointer, pointer, long, long, long, pointer]

    def quantize(type, x, importance=None):  # -> (rows, bytes of a row) uint8
        number, x = GGMLQuantizationType[type], np.ascontiguousarray(x, np.float32)
        block, nbytes = gguf.GGML_QUANT_SIZES[number]
        rows, columns = x.shape
        out = np.empty((rows, columns // block * nbytes), np.uint8)
        weights = None if importance is None else importance.ctypes.data
        assert chunk(number, x.ctypes.data, out.ctypes.data, 0, rows, columns, weights) == out.nbytes
        return out

    return quantize


def decoded(type, raw):
    return gguf.quants.dequantize(raw, GGMLQuantizationType[type])


def record():
    quantize, found = quantizer(), {"exact": {}, "errors": {}}
    found["made by"] = f"llama-cpp-python {llama_cpp.__version__}, gguf {version('gguf')}"
    matrices = [t for t in gguf.GGUFReader(TINY).tensors if len(t.shape) == 2]
    tensors = {t.name: t for t in matrices if t.tensor_type == GGMLQuantizationType.F16}
    tiny = {name: np.array(t.data).view(np.float16).reshape(t.shape[::-1]) for name, t in tensors.items()}
    found["tiny"] = hashlib.sha256(b"".join(tiny[name].tobytes() for name in sorted(tiny))).hexdigest()
    for type in draws.EXACT:
        for name, x in draws.draws().items():
            raw = quantize(type, x)
            assert np.array_equal(raw, gguf.quants.quantize(x, GGMLQuantizationType[type])), (type, name)
            found["exact"].setdefault(type, {})[name] = hashlib.sha256(raw.tobytes()).hexdigest()
        found["exact"][type]["zeros"] = hashlib.sha256(quantize(type, draws.zeros()).tobytes()).hexdigest()  # gguf: other signs
        whole = hashlib.sha256()
        for name in sorted(tiny):
            whole.update(quantize(type, tiny[name]).tobytes())
        found["exact"][type]["tiny"] = whole.hexdigest()
    heavy = draws.heavy_draws()
    for type in draws.WITH_IMPORTANCE:
        for name, x in [*draws.draws().items(), *heavy.items(), *draws.samples(tiny)]:
            row = found["errors"].setdefault(type, {}).setdefault(name, {})
            if type in draws.SEARCHED:
                row["alone"] = draws.errors(type, x, decoded(type, quantize(type, x)))
            importance = draws.importance(x.shape[1], all_used=name in heavy)
            row["importance"] = draws.errors(type, x, decoded(type, quantize(type, x, importance)), importance)
    return found


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("quantizers.json")
    out.write_text(json.dumps(record(), indent=1) + "\n")
