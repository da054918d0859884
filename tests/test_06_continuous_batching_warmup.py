"""When a server says ready, no kernel is left to compile: traffic of any kind then adds no machine code."""

import json
import subprocess
import sys

import pytest
from engine_help import engine, small, used

from minillm.speculative.lookup import PromptLookup

pytest.importorskip("numba")

TRAFFIC = """
import argparse, json, random
from dataclasses import replace
from minillm import LLM, SamplingParams
from minillm.backends.numba_.compiled import KERNELS
from minillm.cli import serve
from minillm.model.random_model import TINY, random_model
from minillm.training.lora import fresh_adapter

def machine_code():  # Numba's own list for each kernel: one entry for each set of types, from a compiler or from disk
    return sum(len(kernel.overloads) for kernel in KERNELS)

kv, invariant, lora, speculate = {kv!r}, {invariant!r}, {lora!r}, {speculate!r}
shape = replace(TINY, n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=96, context_length=256)
transformer, tokenizer = random_model(shape, backend="numba")
transformer.kv = kv
adapters = dict(a=fresh_adapter(shape, 4, 8.0), b=fresh_adapter(shape, 2, 4.0, seed=1))
llm = LLM((transformer, tokenizer), adapters=adapters if lora else None)
parser = argparse.ArgumentParser()
serve.configure(parser)
args = parser.parse_args(["--blocks", "64", "--max-tokens-per-step", "48"] + (["--batch-invariant"] if invariant else [])
                         + speculate)
before = machine_code()
front, _, _ = serve.build(args, llm)
ready, engine, rng = machine_code(), front.engine, random.Random(0)
shared = [rng.randrange(512) for _ in range(100)]
for k in range(60):
    own = [rng.randrange(512) for _ in range(rng.choice([1, 1, 2, 3, 8, 9, 20, 60]))]
    prompt = shared[: rng.choice([0, 0, 16, 33, 100])] + own
    lively = {{"temperature": 1.0, "top_k": 5, "repetition_penalty": 1.2}}
    sampling = rng.choice([{{}}, lively, {{"logprobs": 3}}, {{"prompt_logprobs": 1}}])
    params = SamplingParams(max_tokens=rng.choice([1, 2, 9, 30]), ignore_eos=True, **sampling)
    engine.add(prompt, params, n=rng.choice([1, 1, 1, 3]), adapter=rng.choice([None, "a", "b"]) if lora else None)
    for _ in range(rng.choice([0, 1, 3])):
        engine.step()
while engine.has_work:
    for delta in engine.step():
        assert delta.error is None, delta.error
print(json.dumps([before, ready, machine_code()]))
"""


def counts(**how):  # -> kernels in memory before the warm-up, after it, and after traffic
    script = TRAFFIC.format(**{"kv": "float32", "invariant": False, "lora": False, "speculate": [], **how})
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


HOW = [{}, {"kv": "float16"}, {"kv": "float16", "lora": True}, {"kv": "float16", "invariant": True},
       {"lora": True, "invariant": True}, {"kv": "float16", "speculate": ["--speculate", "self:1"]},
       {"speculate": ["--speculate", "ngram"]}]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW, ids=str)
def test_no_kernel_is_compiled_under_traffic(how):
    before, ready, after = counts(**how)
    assert before < ready == after, "in a process of its own: here other tests have compiled them all"


@pytest.mark.parametrize("config", [{}, {"num_blocks": 1}, {"num_blocks": 2, "max_sequences": 1}, {"policy": "static"}], ids=str)
@pytest.mark.parametrize("drafts", [False, True])
def test_a_warm_up_fits_any_pool_and_leaves_nothing(config, drafts):
    from minillm.engine.warmup import warm_up

    core = engine(small(), prefix="hash", proposer=PromptLookup() if drafts else None, gamma=None, **config)
    warm_up(core)
    assert not core.executor.lookahead.times.seen and not core.executor.drafts, "a compiler's times are no step's"
    assert config or drafts == any(event.kind == "drafted" for event in core.log.events)  # a small pool has no room for drafts
    assert not core.has_work and used(core) == 0
    kinds = {event.kind for request in core.log.requests() for event in core.log.events_of(request)}
    assert "failed" not in kinds and "refused" not in kinds
