"""What a cached prefix does to the time to first token: the same request, with more and more of it kept by a Session.

The first token waits for the prompt's computation, so what is read from the cache is time saved. "By FLOPs" is the cold time
in proportion to the FLOPs that are left: no bound, but what a reader expects. The gap is what does not shrink with the prompt:
a pass over all weights however few tokens are new, and a step per layer and page.

Cold is the plain way, on a contiguous cache. All ways take turns within each round, and each is the median of its rounds.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from minillm import terminal
from minillm.bench.rounds import in_turn
from minillm.errors import RequestError
from minillm.gateway.session import Part, Session
from minillm.llm import LLM
from minillm.model.params import SamplingParams

SHARES = (0.0, 0.25, 0.5, 0.75, 0.95)
ONE_TOKEN = SamplingParams(max_tokens=1, ignore_eos=True)


def run(
    llm: LLM, prompt_tokens: int = 1000, question_tokens: int = 16, shares: Sequence[float] = SHARES, rounds: int = 3,
    block_size: int = 16
) -> dict[str, Any]:
    """-> {"shares": [a row each], "system_prompt": {"ttft_cold_s", "ttft_cached_s", "ratio", …}, …}, ready for JSON.

    shares: of a prompt of prompt_tokens. system_prompt: all of those kept, and a question of question_tokens after them.
    Tokens are random: the time does not depend on them. Errors: RequestError for what does not fit the context.
    """
    total, context = prompt_tokens + question_tokens, llm.config.context_length
    if min(prompt_tokens, question_tokens, rounds, block_size) < 1 or total >= context or not all(0 <= s < 1 for s in shares):
        raise RequestError(
            "a prefix benchmark needs at least 1 round, 1 token of prompt and of question that fit the context together, and "
            f"shares from 0 to below 1: found {rounds} rounds, {prompt_tokens:,} + {question_tokens:,} tokens of {context:,}, "
            f"shares {shares}."
        )
    draw = np.random.default_rng(0).integers
    prefix = draw(0, llm.config.vocab_size, prompt_tokens).tolist()
    session = Session(llm, ttl_s=float("inf"), min_tokens=1, capacity=prompt_tokens + block_size, block_size=block_size)
    cuts = [int(share * prompt_tokens) for share in shares]

    terminal.say(f"writing {prompt_tokens:,} tokens")
    edges = sorted({0, *cuts, prompt_tokens})
    written: list[Part | str | list[int]] = [Part(prefix[a:b], cache=True) for a, b in zip(edges, edges[1:], strict=False)]
    session.generate(written, ONE_TOKEN)

    def fresh(n: int) -> list[int]:
        return draw(0, llm.config.vocab_size, n).tolist()

    def cold(n: int) -> Any:  # seconds
        return llm.generate(prefix[:n] + fresh(n - len(prefix[:n])), ONE_TOKEN).metrics["ttft_s"]

    def cached(kept: int, n: int) -> Any:  # seconds
        asked: list[Part | str | list[int]] = [Part(prefix[:kept], cache=True), fresh(n)]
        answer = session.generate(asked, ONE_TOKEN)
        assert answer.usage.cache_read_tokens == kept, "the prefix was written first, and there is room for it"
        return answer.completion.metrics["ttft_s"]

    ways: dict[str, Callable[[], Any]] = {
        "the prompt": lambda: cold(prompt_tokens),
        "prompt and question": lambda: cold(total),
        "the question, its prompt cached": lambda: cached(prompt_tokens, question_tokens),
    }
    for number, kept in enumerate(cuts, 1):
        ways[f"share {number}, {kept:,} tokens cached"] = partial(cached, kept, prompt_tokens - kept)
    short, long, asked, *by_share = map(median, in_turn(ways, rounds, lambda name: ways[name]()).values())
    terminal.say("")

    flops = llm.config.prefill_flops
    rows = [
        {
            "share": share,
            "cached_tokens": kept,
            "ttft_s": ttft,
            "ttft_by_flops_s": short * flops(prompt_tokens - kept, kept) / flops(prompt_tokens),
            "ratio": short / ttft,
        }
        for share, kept, ttft in zip(shares, cuts, by_share, strict=True)
    ]
    system_prompt = {
        "cached_tokens": prompt_tokens,
        "question_tokens": question_tokens,
        "ttft_cold_s": long,
        "ttft_cached_s": asked,
        "ratio": long / asked,
        "ratio_of_flops": flops(total) / flops(question_tokens, prompt_tokens),
    }
    return {
        "model": llm.config.name,
        "prompt_tokens": prompt_tokens,
        "block_size": block_size,
        "rounds": rounds,
        "ttft_cold_s": short,
        "shares": rows,
        "system_prompt": system_prompt,
    }


def table(result: dict[str, Any]) -> str:
    """Format the measurement."""
    lines = [f"{result['model']}: TTFT of a prompt of {result['prompt_tokens']:,} tokens, pages of {result['block_size']}"]
    rows = [["no cache", f"{result['ttft_cold_s'] * 1e3:,.0f} ms"]]
    for row in result["shares"]:
        ttft, expected = (f"{row[name] * 1e3:,.0f} ms" for name in ("ttft_s", "ttft_by_flops_s"))
        rows.append([f"{row['share']:.0%}", ttft, expected, f"{row['ratio']:.1f}x"])
    lines.append(terminal.table(["shared", "TTFT", "by FLOPs", "faster"], rows, ">"))
    s = result["system_prompt"]
    lines.append(
        f"A system prompt of {s['cached_tokens']:,} tokens and a question of {s['question_tokens']:,}: "
        f"{s['ttft_cold_s'] * 1e3:,.0f} ms cold, {s['ttft_cached_s'] * 1e3:,.0f} ms cached, {s['ratio']:.1f} times faster "
        f"({s['ratio_of_flops']:.0f} times fewer FLOPs)."
    )
    return "\n".join(lines)
