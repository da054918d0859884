"""Before the first request: let the engine meet every kind of step once, so that no client waits for a compiler.

A compiled kernel is made when it is first called, in seconds, and which ones a step calls depends on what is in it. A lone
prompt and a lone token are not enough: the kernel for tokens that decode beside somebody's prompt is first called under
traffic, and the client that brings it about waits six seconds for its first token. So the warm-up goes through the kinds:

    one token, few, more than a band of rows        as prompts
    one sequence, and several                       decoding
    both in one step                                those who decode beside a prompt that enters
    a prompt whose beginning is cached              so a step that begins in the middle
    several answers to one prompt                   blocks that are shared, then copied
    each adapter alone, and all with none           in one step

Its requests leave nothing behind but keys and values in the prefix cache, which traffic soon replaces.
"""

from minillm.model.sampling import SamplingParams

LENGTHS = (1, 2, 7, 40)  # tokens of prompts: one, few rows of attention, less and more than a pass over a band (crossover.py)
STEPS = 3  # tokens that each draws: the first by its prompt, two by decode steps


def warm_up(engine):
    """Run every kind of step. The engine is idle before and after."""
    longest = max(1, min(engine.config.context_length, engine.config.num_blocks * engine.config.block_size) - STEPS)
    most = engine.config.max_tokens_per_step if engine.config.policy != "chunked" else longest
    lengths = sorted({min(n, longest, most) for n in LENGTHS})
    adapters = [None, *engine.llm.adapters]
    for adapter in adapters:
        for n in lengths:
            together(engine, [(n, adapter)])
        together(engine, [(n, adapter) for n in lengths])
        together(engine, [(lengths[-1], adapter)], n=min(2, engine.config.max_sequences))
    if len(adapters) > 1:
        together(engine, [(n, adapter) for adapter in adapters for n in (lengths[-1], 1)])


def together(engine, requests, n=1):  # [(prompt tokens, adapter)]
    """Serve these to the end; each enters a step after the one before, so that prompts meet those who decode.

    What a small pool has no room for waits; what it could never hold (several answers) is left out.
    """
    params = SamplingParams(max_tokens=STEPS, ignore_eos=True)
    for length, adapter in requests:
        if n == 1 or length + STEPS <= engine.config.num_blocks * engine.config.block_size // n:
            engine.add([0] * length, params, n=n, adapter=adapter)
            engine.step()
    while engine.has_work:
        for delta in engine.step():
            if delta.error is not None:
                raise delta.error
