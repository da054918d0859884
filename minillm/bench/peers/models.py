"""Engines to measure, ours and others', behind one call: feed a batch of prompts, decode some tokens each, say how long.

Each runs in a process of its own (see `bench/worker.py`), because thread pools of different libraries in one process wait for
each other while spinning. Each loads the same file. Tokens are random, equal for all, and never end a sequence. Ours and
llama.cpp can decode `again` after the prompts of the last call, whose keys and values they still have.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from minillm.errors import MiniLLMError

ROOM = 128  # tokens after a prompt that a context of llama.cpp has room for at least


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that one run took: to prefill the whole batch, and for all decode steps after that; for each, where it is told.

    tokens: of each sequence its greedy tokens, one from the prompt and one from each step.
    """

    prefill_s: float
    decode_s: float
    step_s: tuple = ()
    tokens: tuple = ()


def timing(start, ends, tokens=()):  # seconds: the start, the end of prefill and of each step; [[token]] -> Timing
    steps = tuple(b - a for a, b in pairwise(ends))
    return Timing(ends[0] - start, ends[-1] - ends[0], steps, tuple(tuple(map(int, found)) for found in tokens))


@dataclass
class MiniLLM:
    """This project."""

    path: str
    threads: int
    backend: str | None = None
    kv: str = "float32"
    activations: str = "exact"
    model: Any = field(init=False)
    precision: str = field(init=False)
    prefilled: tuple = ()

    def __post_init__(self) -> None:
        from minillm.model.load import load_model

        self.model, _ = load_model(self.path, self.backend, self.kv, self.activations)
        packed = rounding(self.backend, self.activations)
        self.precision = f"float32, {packed}keys and values in {self.kv}"

    def run(self, prompts: Sequence[Sequence[int]], steps: int, again: bool = False) -> Timing:  # [[token]], int -> Timing
        import numpy as np

        from minillm.model.transformer import Segment
        from minillm.quantization.kivi import KIVI

        start = time.perf_counter()
        if not again:
            caches = [self.model.new_cache(len(prompt) + steps) for prompt in prompts]
            logits = [self.model.forward([Segment(list(p), 0, c)])[0] for p, c in zip(prompts, caches, strict=True)]
            self.prefilled = caches, logits
        caches, logits = self.prefilled
        if self.kv in KIVI:  # which goes back no further than its window
            caches = [cache.fork() for cache in caches]
        for cache in caches:
            cache.truncate(len(prompts[0]))
        ends, drawn = [time.perf_counter()], []
        for _ in range(steps):
            drawn.append([np.argmax(row, axis=-1) for row in logits])
            logits = self.model.forward([Segment(t, c.length, c) for t, c in zip(drawn[-1], caches, strict=True)])
            ends.append(time.perf_counter())
        drawn.append([np.argmax(row, axis=-1) for row in logits])
        return timing(start, ends, [np.concatenate(of_one) for of_one in zip(*drawn, strict=True)])


class Exact(MiniLLM):
    """The same with exact activations: what 8-bit ones are measured beside."""

    def __post_init__(self) -> None:
        self.activations = "exact"
        super().__post_init__()


def rounding(backend: str | None, activations: str) -> str:
    """Say how x is rounded before products."""
    if activations == "exact" and backend != "numba":
        return ""
    return f"activations rounded to {8 if activations == 'int8' else 16} bits beside packed weights, "


@dataclass
class Transformers:
    """Hugging Face transformers, PyTorch on the CPU, float32, from the same GGUF file."""

    path: str
    threads: int
    model: Any = field(init=False)
    precision: str = "float32, weights unpacked"

    def __post_init__(self) -> None:
        import os

        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(self.threads)
        folder, name = os.path.split(self.path)
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(folder, gguf_file=name, dtype=torch.float32).eval()

    def run(self, prompts: Sequence[Sequence[int]], steps: int) -> Timing:
        import torch

        with torch.inference_mode():
            start = time.perf_counter()
            out = self.model(torch.tensor(prompts), use_cache=True, logits_to_keep=1)
            ends, drawn = [time.perf_counter()], []
            for _ in range(steps):
                drawn.append(out.logits[:, -1:].argmax(-1))
                out = self.model(drawn[-1], past_key_values=out.past_key_values, use_cache=True)
                ends.append(time.perf_counter())
            drawn.append(out.logits[:, -1:].argmax(-1))
            return timing(start, ends, torch.cat(drawn, 1).tolist())


@dataclass
class LlamaCpp:
    """llama.cpp through llama-cpp-python's low-level calls, as its own batched-bench does."""

    path: str
    threads: int
    context: Any = None
    capacity: tuple[int, int] = (0, 0)
    first: Sequence[int] = ()
    precision: str = field(init=False)

    def __post_init__(self) -> None:
        import llama_cpp as lib

        lib.llama_backend_init()
        self.quiet = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self.quiet, None)
        self.model = lib.llama_model_load_from_file(self.path.encode(), lib.llama_model_default_params())
        if not self.model:
            raise MiniLLMError(f"llama.cpp could not load {self.path}.")
        self.vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        rounded = "activations rounded to 8 bits beside packed weights, keys and values in float16"
        self.precision = f"{rounded}; built for {built_for(lib.llama_print_system_info().decode())}"

    def fit(self, sequences: int, tokens: int) -> None:
        """Make a context large enough; kept between runs of the same size."""
        import llama_cpp as lib

        if self.capacity != (sequences, tokens):
            if self.context:
                lib.llama_free(self.context)
            params = lib.llama_context_default_params()
            params.n_ctx, params.n_batch, params.n_ubatch = sequences * tokens, 2048, 512
            params.n_seq_max, params.n_threads, params.n_threads_batch = sequences, self.threads, self.threads
            params.no_perf = True
            self.context, self.capacity = lib.llama_init_from_model(self.model, params), (sequences, tokens)
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)

    def run(self, prompts: Sequence[Sequence[int]], steps: int, again: bool = False) -> Timing:
        import llama_cpp as lib
        import numpy as np

        if not again:
            self.fit(len(prompts), -(-(len(prompts[0]) + max(steps, ROOM)) // 256) * 256)
        batch = lib.llama_batch_init(max(len(prompts[0]), len(prompts)), 0, 1)

        def decode(rows: Sequence[tuple]) -> None:  # [(token, position, sequence, logits wanted)]
            batch.n_tokens = len(rows)
            for i, (token, position, sequence, wanted) in enumerate(rows):
                batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            if code := lib.llama_decode(self.context, batch):
                raise MiniLLMError(f"llama.cpp: llama_decode returned {code}.")

        def best(i: int) -> int:
            return int(np.argmax(np.ctypeslib.as_array(lib.llama_get_logits_ith(self.context, i), (self.vocab,))))

        start = time.perf_counter()
        if not again:
            tokens = []
            for sequence, prompt in enumerate(prompts):
                last = len(prompt) - 1
                decode([(token, i, sequence, i == last) for i, token in enumerate(prompt)])
                tokens.append(best(last))
            self.first = tokens
        drawn = [self.first]
        lib.llama_memory_seq_rm(lib.llama_get_memory(self.context), -1, len(prompts[0]), -1)
        ends = [time.perf_counter()]
        for step in range(steps):
            decode([(t, len(prompts[0]) + step, s, True) for s, t in enumerate(drawn[-1])])
            drawn.append([best(i) for i in range(len(prompts))])
            ends.append(time.perf_counter())
        lib.llama_batch_free(batch)
        return timing(start, ends, zip(*drawn, strict=True))


def built_for(info):  # "CPU : AVX2 = 1 | FMA = 1 | OPENMP = 1 |" -> "AVX2, FMA": a build for old processors is no fair peer
    """Name the instruction sets that a build of llama.cpp uses, the widest of each kind."""
    found = [part.rpartition(":")[2].split("=")[0].strip() for part in info.split("|") if part.strip().endswith("= 1")]
    kinds = ("AVX", "AMX", "FMA", "NEON", "SVE", "DOTPROD")
    return ", ".join(name for name in found if name.startswith(kinds)) or "any processor"
