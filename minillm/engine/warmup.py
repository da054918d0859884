"""Warm-up before the first request: run every kind of step once, so that no client waits for a compiler.

A kernel is compiled when it is first called, which takes seconds, and which kernels a step calls depends on its batch. One
prompt and one decode are not enough: the kernel for decodes beside a prompt is first called under traffic, and the client
whose request causes that waits six seconds for its first token. So the warm-up runs all kinds of steps:

    one token, few, more than a band of rows        as prompts
    one sequence, and several                       decoding
    both in one step                                decodes beside a prompt that is admitted, a short prompt beside a long
    a prompt whose beginning is cached              so a step that begins in the middle
    several answers to one prompt                   blocks that are shared, then copied
    each adapter alone, and all with none           in one step
    a prompt with its log-probabilities             the head for many positions
    drafts, one and several                         in an engine that has a proposer; some kept, some not

Its requests leave nothing behind but keys and values in the prefix cache, which traffic soon replaces.
"""

from minillm.engine.engine import Engine
from minillm.model.params import SamplingParams
from minillm.speculative.adaptive import Fixed

LENGTHS = (1, 2, 7, 40)  # tokens of prompts: one, few rows of attention, less and more than a pass over a band (crossover.py)
STEPS = 3  # tokens that each draws: the first by its prompt, two by decode steps


def warm_up(engine: Engine) -> None:
    """Run every kind of step. The engine is idle before and after; what it knows of the times of steps stays as it was, as these
    are a compiler's.
    """
    executor = engine.executor
    lookahead, gammas = executor.lookahead, (0,) if executor.proposer is None else (0, 1, 4)
    try:
        for gamma in gammas:
            executor.lookahead = Fixed(gamma)
            serve_all_kinds(engine, STEPS + gamma)
    finally:
        executor.lookahead = lookahead


def serve_all_kinds(engine: Engine, tokens: int) -> None:
    """Serve requests of all kinds, each for so many tokens, or fewer where the pool is small."""
    room = min(engine.context, engine.config.num_blocks * engine.config.block_size)
    tokens = max(STEPS, min(tokens, room - 1))
    longest = max(1, room - tokens)
    most = engine.config.max_tokens_per_step if engine.config.policy != "chunked" else longest
    lengths = sorted({min(n, longest, most) for n in LENGTHS})
    adapters = [None, *engine.llm.adapters]
    for adapter in adapters:
        serve_staggered(engine, tokens, [(lengths[0], adapter), (lengths[-1], adapter)], apart=0)  # before a prefix is cached
        for n in lengths:
            serve_staggered(engine, tokens, [(n, adapter)])
        serve_staggered(engine, tokens, [(n, adapter) for n in lengths])
        serve_staggered(engine, tokens, [(lengths[-1], adapter)], n=min(2, engine.config.max_sequences))
    for n in lengths:
        serve_staggered(engine, tokens, [(n, None)], scores=0)
    if len(adapters) > 1:
        serve_staggered(engine, tokens, [(n, adapter) for adapter in adapters for n in (lengths[-1], 1)])


def serve_staggered(
    engine: Engine, tokens: int, requests: list[tuple[int, str | None]], n: int = 1, scores: int | None = None, apart: int = 1
) -> None:  # [(prompt tokens, adapter)]
    """Serve requests to the end, each admitted so many steps after the one before: by one, so that prompts meet decodes.

    Requests wait where a small pool has no room; a request that could never fit (several answers) is left out.
    """
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, prompt_logprobs=scores)
    for length, adapter in requests:
        if n == 1 or length + tokens <= engine.config.num_blocks * engine.config.block_size // n:
            engine.add([0] * length, params, n=n, adapter=adapter)
            for _ in range(apart):
                engine.step()
    while engine.has_work:
        for delta in engine.step():
            if delta.error is not None:
                raise delta.error
