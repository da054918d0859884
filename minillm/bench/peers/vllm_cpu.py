"""vLLM on the CPU, in bfloat16, from a folder that was written from the GGUF file; its engine is driven step by step.

It reads as many prompts a step as fit ONE_STEP tokens, beside the decode of those that it has read already. So decoding is timed
from typing import Any
from the step on in which the last prompt is done, and each sequence may go on until the slowest has its tokens.

Source: docs.vllm.ai, "LLM Engine Example" and "CPU - x86" (environment variables).
"""

import os
import time
from dataclasses import dataclass, field
from typing import Any

from minillm.bench.peers.models import timing

ONE_STEP = 2048  # prompt tokens of a step
SEQUENCES = 64  # at once, at most
VARIABLES = {  # read when vllm is imported
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process, whose steps are counted
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}


def cores(threads):  # -> "0,1"
    """Name the cores that vLLM's threads are bound to."""
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return ",".join(map(str, list(mine)[:threads]))


@dataclass
class VLLM:
    """vLLM's engine. path: a folder with config.json and weights; no tokenizer is needed, as it is given token ids."""

    path: str
    threads: int
    engine: Any = field(init=False)
    precision: str = "bfloat16"
    asked: int = 0

    def __post_init__(self):
        os.environ.update(VARIABLES, VLLM_CPU_OMP_THREADS_BIND=cores(self.threads))
        from vllm import LLM

        options = {"dtype": "bfloat16", "skip_tokenizer_init": True, "enable_prefix_caching": False, "seed": 0}
        limits = {"max_num_batched_tokens": ONE_STEP, "max_num_seqs": SEQUENCES, "max_model_len": None}
        self.engine = LLM(model=self.path, generation_config="vllm", **options, **limits).llm_engine

    def run(self, prompts, steps):  # [[token]], int -> Timing
        from vllm import SamplingParams

        ahead = len(prompts) + sum(map(len, prompts)) // ONE_STEP  # steps at most that decode some while they read others
        params = SamplingParams(temperature=0.0, max_tokens=steps + 1 + ahead, ignore_eos=True, detokenize=False)
        start, tokens, ends = time.perf_counter(), {}, []
        for prompt in prompts:
            self.asked += 1
            tokens[str(self.asked)] = []
            self.engine.add_request(str(self.asked), {"prompt_token_ids": prompt}, params)
        while len(ends) <= steps:
            for output in self.engine.step():
                tokens[output.request_id] = output.outputs[0].token_ids
            if min(map(len, tokens.values())) > len(ends):
                ends.append(time.perf_counter())
        self.engine.abort_request(list(tokens))
        while self.engine.has_unfinished_requests():
            self.engine.step()
        return timing(start, ends, [list(found)[: steps + 1] for found in tokens.values()])
