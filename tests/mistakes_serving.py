"""What comes out of a step's budget, or of a seed, when someone does this or that: see mistakes.py."""

import numpy as np


def divide(pending, budget):  # [tokens], tokens -> {words: (n,) tokens}
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
        "one token too many is given away": in_order(prompts, rest + 1) + decodes,
        "one token of the budget is left over": in_order(prompts, rest - 1) + decodes,
        "each prompt gets the whole rest: what one takes, the next cannot have": np.minimum(prompts, max(rest, 0)) + decodes,
        "prompts that do not fit whole get nothing: one longer than the budget would wait for ever": np.array(whole) + decodes,
        "the shortest prompts are served first: they are in order of seniority": by_size(1),
        "the longest prompts are served first: they are in order of seniority": by_size(-1),
        "prompts share the rest evenly: the most senior takes what it needs": np.minimum(prompts, rest // many) + decodes,
        "prompts get nothing": np.array(decodes),
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
