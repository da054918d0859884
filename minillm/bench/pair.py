"""What a target and a draft are worth to each other, before anything is built on them: `minillm bench pair`.

Perplexity: exp of the mean -log p(token) over held-out documents, each from its beginning, its end of text included.

Acceptance: the draft proposes γ tokens, the target looks at all of them at once and keeps those up to the first that it
would not have said; then it adds a token of its own. Greedy, it keeps a token that is its own first choice. At a temperature
it keeps token x with probability min(1, p(x) / q(x)), and replaces the first that it refuses by a draw from max(p - q, 0):
then what comes out is distributed as the target's own text (Leviathan et al. 2022, arXiv:2211.17192). The rate is tokens
kept / tokens looked at, where nothing after a refusal is looked at: the α of the paper, so that a look yields
(1 - α^(γ + 1)) / (1 - α) tokens on average where every token has the same chance.

Written to be counted, not to be fast: both models run over whole beginnings anew each time; no cache is kept in step.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from minillm import terminal
from minillm.bench.quality import probe
from minillm.llm import LLM
from minillm.metrics import perplexity as metrics
from minillm.model.params import SamplingParams
from minillm.model.sampling import distribution, draw, log_softmax
from minillm.speculative.verify import verify

GAMMA, NEW_TOKENS, PROMPT_TOKENS = 4, 96, 24


def surprises(llm: LLM, document: str) -> np.ndarray:  # -> (tokens - 1,) nats: -log p of each token after the first
    """Compute how little the model expected each token of a document, end of text included, as far as the context reaches."""
    ids = np.array([*llm.tokenizer.encode(document), llm.tokenizer.eos_id])[: llm.config.context_length]
    return metrics.losses(log_softmax(probe(llm, ids[:-1])), ids[1:])


def perplexity(llm: LLM, documents: Sequence[str]) -> float:
    """Compute perplexity per token over all documents; the first token of each is given."""
    return metrics.perplexity(np.concatenate([surprises(llm, document) for document in documents])).value


def bits_per_byte(llm: LLM, documents: Sequence[str]) -> float:
    """Compute what a byte of text costs: it compares models with different tokenizers, where tokens cannot be compared."""
    nats = sum(float(surprises(llm, document).sum()) for document in documents)
    return nats / math.log(2) / sum(len(document.encode()) for document in documents)


def by_position(llm: LLM, documents: Sequence[str], edges: Sequence[int]) -> dict[str, float]:  # -> {"256 to 512": perplexity}
    """Compute perplexity at positions from one edge to the next, over those documents that reach the last edge."""
    if edges[-1] > llm.config.context_length:
        return {}
    long = [document for document in documents if len(llm.tokenizer.encode(document)) >= edges[-1] - 1]
    found = [surprises(llm, document)[: edges[-1]] for document in long]
    if not found:
        return {}
    return {f"{a} to {b}": metrics.perplexity(np.concatenate([costs[a:b] for costs in found])).value for a, b in pairwise(edges)}


def acceptance(
    target: LLM, draft: LLM, prompts: Sequence[Sequence[int]], temperature: float, gamma: int = GAMMA,
    new_tokens: int = NEW_TOKENS, seed: int = 0
) -> dict[str, Any]:
    """Speculate from each prompt (ids) until the end of text or new_tokens; count what was proposed, looked at and kept."""
    rng, params = np.random.default_rng(seed), SamplingParams(temperature=temperature)
    looks = looked_at = kept = 0
    for prompt in prompts:
        text, end = list(prompt), len(prompt) + new_tokens
        while len(text) < end and (len(text) == len(prompt) or text[-1] not in target.tokenizer.eos_ids):
            proposed: list[int] = []
            q: list[np.ndarray] = []
            for _ in range(gamma):
                q.append(distribution(probe(draft, text + proposed)[-1], params))
                proposed.append(draw(q[-1], rng))
            p = [distribution(row, params) for row in probe(target, text + proposed)[len(text) - 1 :]]
            accepted = verify(p, q, proposed, rng)
            text += accepted
            looks, kept = looks + 1, kept + len(accepted) - 1
            looked_at += min(len(accepted), gamma)
    return {"looks": looks, "looked_at": looked_at, "kept": kept, "rate": kept / looked_at, "tokens_per_look": kept / looks + 1}


def run(target: LLM, draft: LLM, documents: Sequence[str], prompts: int = 40, new_tokens: int = NEW_TOKENS) -> dict[str, Any]:
    """Measure both perplexities, and acceptance from the beginnings of the first documents."""
    beginnings = [target.tokenizer.encode(d)[:PROMPT_TOKENS] for d in documents[:prompts]]
    rates = {str(t): acceptance(target, draft, beginnings, t, new_tokens=new_tokens) for t in (0, 1)}
    models = {
        m.config.name: {"parameters": m.config.parameters(), "perplexity": perplexity(m, documents)} for m in (target, draft)
    }
    about = {"documents": len(documents), "prompts": len(beginnings), "gamma": GAMMA, "new_tokens": new_tokens}
    return about | {"models": models, "acceptance_at_temperature": rates}


def table(result: dict[str, Any]) -> str:
    models = [[name, f"{m['parameters']:,}", f"{m['perplexity']:.3f}"] for name, m in result["models"].items()]
    how = f"{result['prompts']} beginnings of {PROMPT_TOKENS} tokens, {result['new_tokens']} new"
    rates = [
        ["greedy" if t == "0" else f"temperature {t}", f"{r['rate']:.1%}", f"{r['looked_at']:,}", f"{r['tokens_per_look']:.2f}"]
        for t, r in result["acceptance_at_temperature"].items()
    ]
    head = [f"acceptance at γ = {result['gamma']}", "kept", "of tokens looked at", "tokens a look"]
    return "\n".join([
        f"{result['documents']} held-out documents",
        terminal.table(["model", "parameters", "perplexity"], models),
        f"\n{how}",
        terminal.table(head, rates),
    ])  # fmt: skip
