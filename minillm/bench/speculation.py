"""What drafts bring: an engine with and without them, on text that copies and on text that does not, in turns.

    speed-up    tokens/s with drafts over tokens/s without, of decode steps in the same round
    α           drafts kept / drafts looked at: nothing after a rejection is looked at
    formula     E(α, γ) / (v + γ c): the speed-up by theory (costs/speculation.py), with v and c as they were measured here:
                v a step of γ + 1 tokens, c a proposed token, in steps of one token

Stories are held-out ones that go on from their beginnings. Copying prompts quote or edit a text (data/prompts/copying.toml);
`copied` is the share of the answers' tokens that stand in a run of four that the prompt has as well.
"""

import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import median
from typing import Any

from minillm import terminal
from minillm.bench.rounds import in_turn
from minillm.calibration.texts import story_texts
from minillm.costs.speculation import speculative_speedup
from minillm.engine.engine import Engine
from minillm.errors import MiniLLMError
from minillm.llm import LLM
from minillm.model import zoo
from minillm.model.params import SamplingParams
from minillm.scheduler.config import SchedulerConfig
from minillm.speculative.adaptive import Adaptive, Fixed
from minillm.speculative.proposer import Draft
from minillm.speculative.proposers import make_proposer

PROMPT, RUN = 24, 4  # tokens of a story's beginning; tokens that make a copy
WORKLOADS = ("stories", "copying")


@dataclass(frozen=True, order=True)
class Way:
    """One way to decode. proposer: "" without drafts; gamma: 0 for as many as pay."""

    workload: str
    batch: int
    proposer: str = ""
    gamma: int = 0


@dataclass
class Watch:
    """A Lookahead that remembers what it was told."""

    inner: Any
    kept: int = 0
    looked_at: int = 0
    looks: int = 0
    proposed: int = 0
    seconds: float = 0.0  # of proposing
    times: dict[int, list[float]] = field(default_factory=dict)  # tokens of a step -> seconds

    def most(self, keys: Sequence[Any]) -> list[int]:
        return self.inner.most(keys)

    def verified(self, key: Any, looked_at: int, kept: int) -> None:
        self.kept, self.looked_at, self.looks = self.kept + kept, self.looked_at + looked_at, self.looks + 1
        self.inner.verified(key, looked_at, kept)

    def stepped(self, tokens: int, seconds: float) -> None:
        self.times.setdefault(tokens, []).append(seconds)
        self.inner.stepped(tokens, seconds)

    def drafted(self, tokens: int, seconds: float) -> None:
        self.proposed, self.seconds = self.proposed + tokens, self.seconds + seconds
        self.inner.drafted(tokens, seconds)

    def forget(self, key: Any) -> None:
        self.inner.forget(key)


class Nothing:
    """A proposer of nothing: so that steps without drafts are timed like the others."""

    def propose(self, texts: Sequence[Any], most: Sequence[int]) -> list[Any]:
        return [Draft() for _ in texts]

    def forget(self, key: Any) -> None:
        pass


def run(
    llm: LLM, proposers: Sequence[str], gammas: Sequence[int] = (4,), batches: Sequence[int] = (1,), new_tokens: int = 96,
    rounds: int = 5, workloads: Sequence[str] = WORKLOADS,
) -> dict[str, Any]:  # fmt: skip
    """Measure each proposer, with as many drafts as pay and with fixed numbers, beside none. MiniLLMError for unknown names."""
    if unknown := set(workloads) - set(WORKLOADS):
        raise MiniLLMError(f"workloads are {', '.join(WORKLOADS)}, found {', '.join(sorted(unknown))}.")
    prompts = {name: prompts_of(llm, name) for name in workloads}
    ways = [Way(name, batch) for name in workloads for batch in batches]
    ways += [Way(w.workload, w.batch, p, g) for w in list(ways) for p in proposers for g in (0, *gammas)]
    for proposer in proposers:
        serve(llm, Way(workloads[0], 1, proposer), prompts, 8)  # compiles, and refuses what cannot be
    found = in_turn(ways, rounds, lambda way: serve(llm, way, prompts, new_tokens))
    rows = [row(way, found) for way in ways if way.proposer]
    about = {name: {"prompts": len(ids), "copied": found[Way(name, batches[0])][0]["copied"]} for name, ids in prompts.items()}
    return {"model": llm.config.name, "backend": llm.transformer.ops.name, "new_tokens": new_tokens, "rounds": rounds,
            "workloads": about, "rows": rows}  # fmt: skip


def prompts_of(llm: LLM, workload: str) -> list[list[int]]:
    """Make the prompts of a workload, as ids."""
    if workload == "stories":
        return [llm.tokenizer.encode(story)[:PROMPT] for story in story_texts().held_out_documents[:8]]
    with (zoo.embedded_folder().parent / "prompts" / "copying.toml").open("rb") as file:
        asked = tomllib.load(file)["prompt"]
    texts = [f"{p['task']}\n\n{p['text'].strip()}" for p in asked]
    if llm.tokenizer.chat is None:
        return [llm.tokenizer.encode(text) for text in texts]
    return [llm.chat([{"role": "user", "content": text}]) for text in texts]


def serve(llm: LLM, way: Way, prompts: dict[str, list[list[int]]], new_tokens: int) -> dict[str, Any]:
    """Answer all prompts of a workload, so many at a time; time the steps after all of a batch have their first token."""
    asked = list(islice(cycle(prompts[way.workload]), max(way.batch, len(prompts[way.workload]))))
    longest = max(map(len, asked)) + new_tokens
    config = SchedulerConfig(num_blocks=way.batch * (longest // 16 + 2), max_sequences=way.batch,
                             max_tokens_per_step=max(512, 16 * way.batch))  # fmt: skip
    proposer = make_proposer(way.proposer, llm.transformer, llm.tokenizer) if way.proposer else Nothing()
    engine = Engine(llm, config, proposer=proposer)
    watch = Watch((Fixed(way.gamma) if way.gamma else Adaptive()) if way.proposer else Fixed(0))
    engine.executor.lookahead = watch
    tokens, seconds, copied = 0, 0.0, []
    params = SamplingParams(max_tokens=new_tokens, temperature=0, ignore_eos=True)
    for start in range(0, len(asked), way.batch):
        texts = {engine.add(ids, params): list[int]() for ids in asked[start : start + way.batch]}
        begin, at_begin = 0.0, 0
        while engine.has_work:
            for delta in engine.step():
                texts[delta.request] += delta.token_ids
            if not begin and all(texts.values()):
                begin, at_begin = time.perf_counter(), sum(map(len, texts.values()))
        tokens, seconds = tokens + sum(map(len, texts.values())) - at_begin, seconds + time.perf_counter() - begin
        copied += [copied_share(ids, text) for ids, text in zip(asked[start : start + way.batch], texts.values(), strict=True)]
    return {"tokens_per_s": tokens / seconds, "watch": watch, "copied": sum(copied) / len(copied)}


def copied_share(prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Count the tokens of an answer that are in a run of RUN tokens of its prompt, as a share."""
    there = {tuple(prompt[i : i + RUN]) for i in range(len(prompt) - RUN + 1)}
    marked = [False] * len(answer)
    for i in range(len(answer) - RUN + 1):
        if tuple(answer[i : i + RUN]) in there:
            marked[i : i + RUN] = [True] * RUN
    return sum(marked) / max(1, len(answer))


def row(way: Way, found: dict[Way, list[dict[str, Any]]]) -> dict[str, Any]:
    """Join the rounds of a way: medians, ratios within rounds, and what the formula makes of acceptance and costs."""
    runs, plain = found[way], found[Way(way.workload, way.batch)]
    ratios = sorted(a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(runs, plain, strict=True))
    watches = [r["watch"] for r in runs]
    looked_at, kept = sum(w.looked_at for w in watches), sum(w.kept for w in watches)
    out = {"workload": way.workload, "proposer": way.proposer, "gamma": way.gamma or "adaptive", "batch": way.batch,
           "tokens_per_s": median(r["tokens_per_s"] for r in runs), "speed_up": median(ratios), "speed_ups": ratios,
           "acceptance": kept / looked_at if looked_at else None,
           "tokens_per_look": 1 + kept / looks if (looks := sum(w.looks for w in watches)) else None,
           "drafted": sum(w.proposed for w in watches)}  # fmt: skip
    if way.gamma and way.batch == 1 and looked_at:
        out["formula"] = median(by_formula(a["watch"], b["watch"], way.gamma) for a, b in zip(runs, plain, strict=True))
    return out


def by_formula(watch: Watch, plain: Watch, gamma: int) -> float:
    """Predict the speed-up of one round at batch 1. Steps for which nothing was proposed are plain ones."""
    one = median(plain.times[1])
    steps = sum(map(len, watch.times.values()))
    share = watch.looks / steps  # of steps with drafts
    sizes = [(n, times) for n, times in watch.times.items() if n > 1]
    check = sum(len(times) * median(times) for _, times in sizes) / sum(len(times) for _, times in sizes) / one
    drafts = watch.proposed / watch.looks
    cost = watch.seconds / max(1, watch.proposed) / one
    with_drafts = speculative_speedup(watch.kept / watch.looked_at, round(drafts), cost, check)
    whole, fraction = int(drafts), drafts - int(drafts)
    if fraction:
        low, high = (speculative_speedup(watch.kept / watch.looked_at, g, cost, check) for g in (whole, whole + 1))
        with_drafts = low + (high - low) * fraction
    tokens = share * with_drafts * (check + drafts * cost) + 1 - share
    return tokens / (share * (check + drafts * cost) + 1 - share)


def table(result: dict[str, Any]) -> str:
    """Say what was found."""
    head = ["text", "proposer", "γ", "batch", "α", "tokens a look", "tokens/s", "speed-up", "by formula"]
    rows = [
        [r["workload"], r["proposer"], str(r["gamma"]), str(r["batch"]),
         "" if r["acceptance"] is None else f"{r['acceptance']:.0%}",
         "" if r["tokens_per_look"] is None else f"{r['tokens_per_look']:.2f}", f"{r['tokens_per_s']:,.0f}",
         f"{r['speed_up']:.2f} ({r['speed_ups'][0]:.2f} to {r['speed_ups'][-1]:.2f})",
         f"{r['formula']:.2f}" if "formula" in r else ""]
        for r in result["rows"]
    ]  # fmt: skip
    about = "; ".join(f"{name}: {w['prompts']} prompts, {w['copied']:.0%} copied" for name, w in result["workloads"].items())
    return f"{result['model']} on {result['backend']}, {result['new_tokens']} tokens each; {about}\n{terminal.table(head, rows)}"
