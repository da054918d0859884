"""llama.cpp's logits, for the scripts beside this one that record them. Needs llama-cpp-python, and no code of minillm."""

import ctypes

import llama_cpp
import numpy as np
from llama_cpp_quantizer import quiet

llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))


class Model:
    """A file, loaded. Keys and values in F32, so that what differs from another engine is the weights' arithmetic."""

    def __init__(self, path, callback=None, context=512):
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = 2
        params.type_k = params.type_v = 0
        params.flash_attn_type = 0
        if callback:
            params.cb_eval = ctypes.cast(callback, type(params.cb_eval))
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(context, 0, 1)

    def logits(self, ids):  # [int] -> (len(ids), vocab) float32, from an empty cache
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        b, b.n_tokens = self.batch, len(ids)
        for i, token in enumerate(ids):
            b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0], b.logits[i] = token, i, 1, 0, True
        if llama_cpp.llama_decode(self.context, b):
            raise RuntimeError("llama.cpp does not decode")
        found = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(found, (len(ids), self.vocab)).copy()

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)
