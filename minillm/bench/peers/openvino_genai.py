"""OpenVINO GenAI on the CPU, from the same GGUF file: its continuous batching, step by step, as its pipelines use it.

Nothing is kept from prompt to prompt: prefix caching is off. Its precision is its own choice, and asked from it: at the time of
writing, products in bfloat16 where the processor has it, activations rounded to 8 bits, keys and values in 8 bits. Its reader of
GGUF has 4-bit weights of its own form: with all of that set to float32, some greedy tokens still are not ours from the first on.

Source: docs.openvino.ai, "OpenVINO GenAI", ContinuousBatchingPipeline and SchedulerConfig.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from minillm.bench.peers.models import timing
from minillm.errors import MiniLLMError

ONE_STEP = 1 << 20  # tokens of a step: so that all prompts are read in one, as ours are before the first decode step


@dataclass
class OpenVino:
    """OpenVINO GenAI."""

    path: str
    threads: int
    pipeline: Any = field(init=False)
    precision: str = field(init=False)
    asked: int = 0

    def __post_init__(self):
        import openvino
        import openvino_genai as genai

        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = ONE_STEP
        self.precision = precision(openvino.Core())
        self.pipeline = genai.ContinuousBatchingPipeline(self.path, scheduler, "CPU", {"INFERENCE_NUM_THREADS": self.threads})

    def run(self, prompts, steps):  # [[token]], int -> Timing
        import numpy as np
        import openvino
        import openvino_genai as genai

        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = steps + 1, True, False
        start, handles = time.perf_counter(), []
        for prompt in prompts:
            self.asked += 1
            handles.append(self.pipeline.add_request(self.asked, openvino.Tensor(np.array([prompt], np.int64)), config))
        ends = []
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            ends.append(time.perf_counter())
        if len(ends) != steps + 1:
            raise MiniLLMError(f"OpenVINO: one step for the prompts and {steps} more were expected, found {len(ends)}.")
        return timing(start, ends, [handle.read_all()[0].generated_ids for handle in handles])


NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "u8": "8 bits", "i8": "8 bits", "u4": "4 bits"}


def precision(core):  # openvino.Core -> text
    """Say in which precision the CPU plugin computes, by its own properties."""
    types = (core.get_property("CPU", key).get_type_name() for key in ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION"))
    kind, kv = (NAMES.get(name, name) for name in types)
    group = int(core.get_property("CPU", "DYNAMIC_QUANTIZATION_GROUP_SIZE"))
    rounded = f"activations rounded to 8 bits in groups of {group}, " if group else ""
    return f"{kind}, weights as its reader converts them, {rounded}keys and values in {kv}"
