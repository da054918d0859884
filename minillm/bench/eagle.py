"""What an EAGLE head is worth to its target: how much of what it drafts is kept, and what a draft costs.

Acceptance is counted as in pair.py, with a chain of γ drafts; target and head keep their caches, and both forget what was
refused. Kept tokens by depth say more than one rate: the first draft is made from the target's own vector, each later one
from a guess.

    tokens a look       E = (1 - α^(γ + 1)) / (1 - α)             where every draft has the same chance α
    expected speed-up   E / (γ c + v)                             c: a draft step, v: the look, both in decode steps of the target

The paper of speculative decoding has v = 1: to look at γ + 1 tokens costs what one costs, since weights are read once. That
is so where memory is the limit; on a few cores arithmetic soon is, so v is measured too. Leviathan et al. 2022,
arXiv:2211.17192; Li et al. 2024, arXiv:2401.15077.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minillm.bench.pair import GAMMA, NEW_TOKENS
from minillm.bench.rounds import in_turn
from minillm.llm import LLM
from minillm.model.params import SamplingParams
from minillm.model.sampling import distribution
from minillm.model.transformer import Segment
from minillm.speculative.draft import draft, run_target
from minillm.speculative.eagle import Eagle
from minillm.speculative.verify import verify


def acceptance(
    llm: LLM, head: Eagle, prompts: Sequence[Sequence[int]], temperature: float, gamma: int = GAMMA, new_tokens: int = NEW_TOKENS,
    seed: int = 0, on_text: Callable | None = None
) -> dict[str, Any]:
    """Measure as pair.acceptance, with a head (speculative.eagle.Eagle). by_depth: [kept, looked at] of each draft of a chain.

    on_text: called with each finished text (ids, the prompt among them).
    """
    rng, looks, params = np.random.default_rng(seed), 0, SamplingParams(temperature=temperature)
    by_depth = np.zeros((gamma, 2), int)
    for prompt in prompts:
        text, end, drafts = list(prompt), len(prompt) + new_tokens, head.new_cache()
        cache = llm.transformer.new_cache(end + gamma)
        features: Any = run_target(llm, head, text[:-1], cache, "none")[0] if len(text) > 1 else ()
        while len(text) < end and (len(text) == len(prompt) or text[-1] not in llm.tokenizer.eos_ids):
            proposed, q = draft(head, features, text[len(text) - len(features) :], drafts, temperature, gamma, rng)
            features, logits = run_target(llm, head, [text[-1], *proposed], cache, "all")
            accepted = verify([distribution(row, params) for row in logits], q, proposed, rng)
            cache.truncate(len(text) + len(accepted) - 1)
            text, features, looks = text + accepted, features[: len(accepted)], looks + 1
            by_depth[: len(accepted) - 1, 0] += 1
            by_depth[: min(len(accepted), len(proposed)), 1] += 1
        if on_text:
            on_text(text)
    kept, looked_at = by_depth.sum(axis=0).tolist()
    rates = {"looks": looks, "looked_at": looked_at, "kept": kept, "rate": kept / looked_at, "tokens_per_look": kept / looks + 1}
    return rates | {"by_depth": by_depth.tolist()}


def costs(  # LLM, {name: Eagle} -> {what: milliseconds}
    llm: LLM, heads: Mapping[str, Eagle], context: int = 64, gamma: int = GAMMA, rounds: int = 40
) -> dict[str, float]:
    """Measure times of a decode step of the target, of its pass over γ + 1 tokens, of each head's draft step; and LM heads alone.

    Of processor time, taken in turns, the least of all rounds each: whatever else runs on the machine only adds. On one thread
    that is the time it takes; on several it is the sum of theirs.
    """
    tokens, transformer = [1] * context, llm.transformer
    cache = transformer.new_cache(context + gamma + 1)
    x, _ = transformer.hidden([Segment(tokens, 0, cache)])
    looks = {"decode step": 1, f"look at {gamma + 1}": gamma + 1}
    jobs: dict[str, Any] = {}
    for name, n in looks.items():
        jobs[name] = lambda n=n: transformer.forward([Segment([1] * n, context, cache, "all")])
    for name, head in heads.items():
        features, drafts = head.features(x), head.new_cache()
        head.guess(features, tokens, drafts)

        def step(head: Any = head, drafts: Any = drafts, feature: Any = features[-1:]) -> None:
            head.target.ops.linear(head.guess(feature, [1], drafts), head.head)
            drafts.truncate(context)

        jobs[name] = step
        jobs[f"{name}, LM head"] = lambda head=head, feature=features[-1:]: head.target.ops.linear(feature, head.head)

    def seconds(name: str) -> float:
        begin = time.process_time()
        jobs[name]()
        passed = time.process_time() - begin
        cache.truncate(context)
        return passed

    return {name: round(1e3 * min(times), 4) for name, times in in_turn(jobs, rounds, seconds).items()}
