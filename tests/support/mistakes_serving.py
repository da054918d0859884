"""What comes out of a step's budget, a limit on its time, or a seed, after a typical mistake: see mistakes.py."""

import numpy as np


def split_budget(pending, budget):  # [tokens], tokens -> {words: (n,) tokens}
    """Of a step's tokens among those who run, in order."""
    decodes = [int(n == 1) for n in pending]
    prompts = [0 if n == 1 else n for n in pending]

    def in_order(wants, room):
        got = []
        for n in wants:
            got.append(max(0, min(n, room - sum(got))))
        return np.array(got, int)

    def by_size(sign):
        order = sorted(range(len(pending)), key=lambda i: sign * prompts[i])
        got = np.zeros(len(pending), int)
        got[order] = in_order([prompts[i] for i in order], budget - sum(decodes))
        return got + decodes

    rest, many = budget - sum(decodes), max(1, sum(n > 0 for n in prompts))
    whole = [0] * len(pending)
    for i, n in enumerate(prompts):
        whole[i] = n if n <= rest - sum(whole) else 0
    return {
        "decodes wait for the prompts in front of them: they come first, wherever they stand": in_order(pending, budget),
        "decodes wait for all prompts: they come first": in_order(prompts, budget)
        + in_order(decodes, budget - in_order(prompts, budget).sum()),
        "the decodes are not taken off the budget: they share it with the prompts": in_order(prompts, budget) + decodes,
        "the decodes are taken off the budget twice": in_order(prompts, rest - sum(decodes)) + decodes,
        "one token too many is given away": in_order(prompts, rest + 1) + decodes,
        "one token of the budget is left over": in_order(prompts, rest - 1) + decodes,
        "each prompt gets the whole rest: what one takes, the next cannot have": np.minimum(prompts, max(rest, 0)) + decodes,
        "prompts that do not fit whole get nothing: one longer than the budget would starve": np.array(whole) + decodes,
        "the shortest prompts are served first: they are in order of seniority": by_size(1),
        "the longest prompts are served first: they are in order of seniority": by_size(-1),
        "prompts share the rest evenly: the most senior takes what it needs": np.minimum(prompts, rest // many) + decodes,
        "prompts get nothing": np.array(decodes),
    }


def largest_chunk(time, limit, most, batch, cached):  # time(batch, chunk, cached, fused) -> seconds; -> {words: tokens}
    """Of a prompt in a step that has a limit."""

    def fits(batch=batch, cached=cached, fused=False, most=most, strictly=False):
        times = ((chunk, time(batch, chunk, cached, fused)) for chunk in range(1, most + 1))
        return max((chunk for chunk, t in times if t < limit or (t == limit and not strictly)), default=0)

    right = fits()
    power = 1 << (right.bit_length() - 1) if right else 0
    per_token = time(0, most, 0, False) / most
    return {
        "one maximum is taken over the whole step: its kernels run one after another, so their times add up": fits(fused=True),
        "the decodes are left out: they are in the same step": fits(batch=0),
        "the tokens that came before are left out: the chunk attends to them too": fits(cached=0),
        "a step that takes just the limit is refused": fits(strictly=True),
        "the decodes are taken off the chunk: the limit is on seconds, and their time is in the step": max(0, right - batch),
        "the largest power of two below it is given: look between that and its double": power,
        "`most` does not count: the prompt may be shorter": fits(most=2 * most),
        "it is the first chunk that no longer fits, not the last that does": right + 1,
        "one token more would still fit": right - 1,
        "the limit does not count: all of the prompt is taken": most,
        "each token is charged alike: until the FLOPs take as long as reading the weights, tokens ride free": min(
            most, max(0, int((limit - time(batch, 0, cached, False)) / per_token))
        ),
    }


def numbers(seed, index, n=4):  # -> {words: (n,) floats}
    """The first numbers that an answer draws."""
    by, spawned = np.random.default_rng, np.random.SeedSequence(seed, spawn_key=(index,))
    return {
        "all answers of a request draw the same numbers: the index counts too": by(seed).random(n),
        "seed and index are added: answer 1 to seed 7 would be answer 0 to seed 8": by(seed + index).random(n),
        "seed and index are a list: not the generator that the docstring names": by([seed, index]).random(n),
        "the generator is NumPy's old, global kind (np.random.seed)": np.random.RandomState(seed).random(n),
        "the numbers of answer 0 are not those of default_rng(seed)": by(spawned).random(n),
    }


def latency(events, name):  # [Event] of one request, TTFT or TPOT or E2E -> {words: seconds}
    """A metric of a request, from its events."""
    arrived, scheduled = ([e.time for e in events if e.kind == kind] for kind in ("arrived", "scheduled"))
    tokens = [e for e in events if e.kind == "token"]
    times, reported = [e.time for e in tokens], [e.tokens for e in events if e.kind == "usage"]
    count = max(sum(e.tokens for e in tokens), *reported, 0)
    answers = [[e.time for e in tokens if e.index == i] for i in sorted({e.index for e in tokens})]
    by_answer = sorted(tokens, key=lambda e: e.index)
    pairs = [(a, b) for a, b in zip(by_answer, by_answer[1:], strict=False) if a.index == b.index]
    decoding, start = sum(t[-1] - t[0] for t in answers), scheduled[-1] if scheduled else np.nan
    chunks, end = len(tokens) - len(answers), next(e.time for e in events if e.kind == "finished")
    return {
        "TTFT": {
            "the clock starts when the request is scheduled: the user waits from its arrival": times[0] - start,
            "the first step counts, and not what came before a preemption": times[0] - (scheduled or [np.nan])[0],
        },
        "TPOT": {
            "the gaps of all answers are pooled: each answer has a TPOT, and the request's is their mean": decoding
            / max(1, count - len(answers)),
            "chunks are counted: each may hold several tokens": decoding / chunks if chunks else np.nan,
            "each chunk's gap is divided by its tokens and these means are averaged: it is all seconds over all tokens": np.mean(
                [(b.time - a.time) / b.tokens for a, b in pairs] or [np.nan]
            ),
            "the first token is counted, and the wait for it": (times[-1] - arrived[0]) / count,
            "the gaps of n tokens are divided by n: there are n - 1": decoding / count,
            "the answers are taken for one: gaps between tokens of different answers": (times[-1] - times[0]) / max(1, count - 1),
            "it ends with FINISHED: the pace is that of the tokens": (end - times[0]) / max(1, count - 1),
            "one answer is looked at, the first": (answers[0][-1] - answers[0][0]) / max(1, len(answers[0]) - 1),
        },
        "E2E": {
            "the clock starts when the request is scheduled: the user waits from its arrival": times[-1] - start,
            "it ends with FINISHED: an answer is complete with its last token": end - arrived[0],
            "it ends with the first token": times[0] - arrived[0],
        },
    }[name]
