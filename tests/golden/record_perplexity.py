"""Record what llama.cpp predicts of a text, token by token, and its perplexity by the definition of its own tool.

    python record_perplexity.py [OUT.json]

Needs llama-cpp-python, which the tests never import; no minillm code runs here. The text: the first held-out stories, held out by
the rule of the corpus, CRC-32 below 3%, and tokenized by llama.cpp. Losses are those of windows of CONTEXT tokens, each STRIDE
further on, its first token replaced by the begin-of-text token; a token is scored in the first window that has it.

The tool (llama.cpp, tools/perplexity/perplexity.cpp): windows that do not overlap, the first token of each replaced; the tokens
behind the middle are scored, those at CONTEXT // 2 + 1 … CONTEXT - 1; the error is σ / √(n - 1) of their losses, with σ² divided
by n, times the perplexity.
"""

import json
import lzma
import math
import pathlib
import sys
import zlib

import llama_cpp
import numpy as np
from llama_cpp_logits import Model

HERE = pathlib.Path(__file__).parent
DATA = HERE.parents[1] / "data"
CONTEXT, STRIDE, WINDOWS = 96, 48, 5


def text():  # -> the first held-out stories
    documents = lzma.decompress((DATA / "corpus" / "stories.txt.xz").read_bytes()).decode().split("<|endoftext|>")
    held_out = [d for d in map(str.strip, documents) if d and zlib.crc32(d.encode()) < 0.03 * 2**32]
    return "<|endoftext|>".join(held_out[:3])


def tokens(vocab, text):
    out = (llama_cpp.llama_token * 4000)()
    data = text.encode()
    return list(out[: llama_cpp.llama_tokenize(vocab, data, len(data), out, 4000, True, True)])


def losses(model, ids, bos):  # -> -log p of every token but the first
    logits = model.logits([bos, *ids[1:]]).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return [-float(rows[i, token]) for i, token in enumerate(ids[1:])]


def record():
    model = Model(DATA / "models" / "tiny.gguf")
    vocab = llama_cpp.llama_model_get_vocab(model.model)
    ids, bos = tokens(vocab, text()), llama_cpp.llama_vocab_bos(vocab)
    ids = ids[: CONTEXT + (WINDOWS - 1) * STRIDE]
    by_window = [losses(model, ids[a : a + CONTEXT], bos) for a in range(0, len(ids) - CONTEXT + 1, STRIDE)]
    scored = by_window[0] + [loss for window in by_window[1:] for loss in window[-STRIDE:]]
    own = np.array([loss for window in by_window[::2] for loss in window[CONTEXT // 2 :]])
    value = math.exp(own.mean())
    error = value * math.sqrt((np.mean(own**2) - own.mean() ** 2) / (len(own) - 1))
    return {
        "version": f"llama-cpp-python {llama_cpp.__version__}", "context": CONTEXT, "stride": STRIDE, "ids": ids,
        "losses": [round(loss, 5) for loss in scored],
        "llama_cpp": {"scored": len(own), "perplexity": round(value, 5), "error": round(error, 5)},
    }  # fmt: skip


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "perplexity.json")
    out.write_text(json.dumps(record()) + "\n")
