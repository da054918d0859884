"""Small models and engines for the tests of lesson 06, and what a request says when it is alone."""

from dataclasses import replace
from functools import cache

import numpy as np

from minillm import LLM, SamplingParams
from minillm.engine.engine import Engine
from minillm.model.random_model import TINY, random_model
from minillm.scheduler.scheduler import SchedulerConfig

SMALL = replace(TINY, n_layers=2, d_model=96, n_heads=6, n_kv_heads=2, d_head=16, d_ff=64, context_length=128)


@cache
def small(backend="numpy"):
    """A model of a few thousand weights; its 512 tokens are bytes and names."""
    return LLM(random_model(SMALL, backend=backend))


def engine(llm=None, invariant=False, log=None, proposer=None, gamma=4, **config):
    """An engine of small blocks; num_blocks and the rest as SchedulerConfig has them."""
    config = {"num_blocks": 64, "block_size": 4, **config}
    return Engine(llm or small(), SchedulerConfig(**config), invariant=invariant, log=log, proposer=proposer, gamma=gamma)


def prompts(count, seed=0, longest=20):
    """Token ids of awkward lengths: 1, the block size and its neighbours, and chance."""
    rng = np.random.default_rng(seed)
    lengths = [1, 4, 5, 3, 17, *rng.integers(1, longest + 1, count)][:count]
    return [rng.integers(0, 512, n).tolist() for n in lengths]


def greedy(max_tokens=10, **params):
    return SamplingParams(max_tokens=max_tokens, **{"ignore_eos": True, **params})


def used(engine):
    """Blocks that have an owner."""
    pool = engine.scheduler.pool
    return pool.num_blocks - pool.num_free


def said(completions):
    return [[answer.token_ids for answer in answers] for answers in completions]


def drain(engine, limit=2000):
    """Step until nothing is left: {(request, index): [Delta]}. A limit, so that a scheduler that stands still is seen."""
    out = {}
    while engine.has_work:
        limit -= 1
        assert limit, "the engine does not come to an end"
        for delta in engine.step():
            out.setdefault((delta.request, delta.index), []).append(delta)
    return out


class Spoiled:
    """A transformer whose logits are tampered with: spoil(segments) may raise, after(segments, logits) may change them."""

    def __init__(self, transformer, spoil=None, after=None):
        self.transformer, self.config, self.ops = transformer, transformer.config, transformer.ops
        self.spoil, self.after, self.steps = spoil, after, []

    def logits(self, segments):
        self.steps.append([(list(s.tokens), s.position, s.logits) for s in segments])
        if self.spoil:
            self.spoil(segments)
        logits = [row.copy() for row in self.transformer.forward(segments)]
        if self.after:
            self.after(segments, logits)
        return np.concatenate(logits)
