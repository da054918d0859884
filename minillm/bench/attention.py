"""`minillm bench attention`: naive, FlashAttention, paged and torch over the number of tokens, in one run.

Prefill is limited by arithmetic: 4·d FLOPs for each (query, key) pair that is seen, and head. Decode is limited by
memory: K and V are read once. So each time is also told as FLOP/s and bytes/s, to be held against what the machine can
do at best, measured in the same run. Bytes are those that must move: Q, K, V and O once each; naive attention also
writes scores and reads them back, then the probabilities: 4·N² numbers a head (Dao et al. 2022, Theorem 2).

Each implementation runs in its own process, and rounds alternate. A time is the fastest of all calls, as the ceilings are:
calls of a millisecond on a machine that others use are disturbed more often than not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from minillm import terminal
from minillm.attention.mask import Mask
from minillm.bench.machine import Machine
from minillm.bench.rounds import in_turn
from minillm.bench.worker import Worker
from minillm.errors import MiniLLMError
from minillm.memory import available_bytes, refuse_beyond_memory
from minillm.terminal import say

PREFILL = ("naive_numpy", "flash_numpy", "flash_numba", "torch")
DECODE = ("naive_numpy", "flash_numba", "paged_numba", "flash_numba_float16", "paged_numba_float16", "torch")
PROBE = 512  # tokens of a first call, from which the time of a long one is foretold
PATIENCE_S = 8.0  # a call that would take longer is left out
SLOW_S = 1.0  # one that takes longer is called once, in the first round


@dataclass
class Bench:
    """One comparison: its shape, and the processes that take part."""

    heads: int
    kv_heads: int
    d_head: int
    rounds: int
    threads: int
    peers: bool
    workers: dict = field(default_factory=dict)

    def ask(self, name: str, queries: int, tokens: int, **options: Any) -> dict[str, Any]:
        """Ask one implementation, whose process starts when it is first asked."""
        if name not in self.workers:
            say(f"starting {name}")
            self.workers[name] = Worker("torch" if name == "torch" else "attention", name, self.threads)
        shape = {"heads": self.heads, "kv_heads": self.kv_heads, "d_head": self.d_head}
        return self.workers[name].ask(queries=queries, tokens=tokens, **shape, **options)

    def compare(  # -> {"tokens", "queries", "flops", "engines", "ratios_to_torch"}
        self, names: Sequence[str], queries: int, tokens: int
    ) -> dict[str, Any]:
        """Compare all implementations on one size, in alternating rounds. Decode also has "ratios_to_contiguous" of the paged."""
        names = [name for name in names if self.peers or name != "torch"]
        left_out = {name: why for name in names if (why := self.reason_to_leave_out(name, queries, tokens))}
        names = [name for name in names if name not in left_out]
        slow = {name for name in names if self.foretold_s(name, queries, tokens) > SLOW_S}

        def time_s(name: str) -> float:
            return self.ask(name, queries, tokens, warm=name not in slow)["time_s"]

        times = in_turn(names, self.rounds, time_s, f"{queries:,} queries, {tokens:,} keys: ", once=slow)
        flops = 4 * self.d_head * self.heads * Mask(queries, tokens).pairs()
        engines = {name: self.figures(name, queries, tokens, flops, times[name]) for name in names}
        engines |= {name: {"left_out": why} for name, why in left_out.items()}
        result = {"tokens": tokens, "queries": queries, "flops": flops, "engines": engines}
        if "torch" in names:
            torch_s = engines["torch"]["time_s"]
            result["ratios_to_torch"] = {name: torch_s / engines[name]["time_s"] for name in names if name != "torch"}
        paged = {name: name.replace("paged", "flash") for name in names if name.startswith("paged")}
        if paged:
            ratios = {a: engines[b]["time_s"] / engines[a]["time_s"] for a, b in paged.items()}
            result["ratios_to_contiguous"] = ratios
        return result

    def figures(self, name: str, queries: int, tokens: int, flops: float, times: Sequence[float]) -> dict[str, Any]:
        time_s = min(times)
        moved = self.bytes_moved(name, queries, tokens)
        return {
            "time_s": time_s,
            "time_s_of_rounds": times,
            "flops_per_s": flops / time_s,
            "bytes": moved,
            "bytes_per_s": moved / time_s,
        }

    def bytes_moved(self, name: str, queries: int, tokens: int) -> Any:
        """Count Q and O, K and V, and naive: scores and probabilities, each written and read."""
        kv = 2 * tokens * self.kv_heads * self.d_head * (2 if name.endswith("float16") else 4)
        scores = 4 * self.heads * queries * tokens * 4 if name.startswith("naive") else 0
        return 2 * queries * self.heads * self.d_head * 4 + kv + scores

    def input_bytes(self, queries: int, tokens: int) -> Any:
        return 4 * self.d_head * (2 * queries * self.heads + 2 * tokens * self.kv_heads)

    def naive_bytes(self, queries: int, tokens: int) -> Any:
        """Count three matrices at once: scores, masked scores, and their softmax."""
        return 3 * 4 * self.heads * queries * tokens

    def reason_to_leave_out(self, name: str, queries: int, tokens: int) -> str | None:
        available = available_bytes()
        if name.startswith("naive") and available and (need := self.naive_bytes(queries, tokens)) > available // 2:
            return f"its scores would take {need:,} bytes, more than half of the {available:,} available"
        if (time_s := self.foretold_s(name, queries, tokens)) > PATIENCE_S:
            return f"a call would take about {time_s:.0f} s"
        return None

    def foretold_s(self, name: str, queries: int, tokens: int) -> float:
        """Estimate the time of a call, from a short one; only for what may be slow. Work grows with queries × keys."""
        if not name.endswith("numpy") or queries == 1 or tokens <= PROBE:
            return 0.0
        return self.ask(name, PROBE, PROBE)["time_s"] * (queries * tokens) / PROBE**2

    def memory(self, tokens: int) -> dict[str, Any]:
        """Measure the peak memory of a prefill beside its inputs; for naive computed where it does not fit."""
        flash = self.ask("flash_numba", tokens, tokens, memory=True)["peak_bytes"]
        measured = self.reason_to_leave_out("naive_numpy", tokens, tokens) is None
        naive = (
            self.ask("naive_numpy", tokens, tokens, memory=True)["peak_bytes"] if measured else self.naive_bytes(tokens, tokens)
        )
        return {
            "tokens": tokens,
            "flash_numba_bytes": flash,
            "naive_bytes": naive,
            "naive_is_measured": measured,
            "flash_over_naive": flash / naive,
            "input_bytes": self.input_bytes(tokens, tokens),
        }


def run(
    tokens: Sequence[int], heads: int, kv_heads: int, d_head: int, rounds: int, threads: int, peers: bool,
    machine: Callable[[], Machine]
) -> dict[str, Any]:
    """Measure prefill and decode over each number of tokens. machine: a function that measures the ceilings."""
    if min(heads, kv_heads, d_head, rounds, *tokens) < 1:
        raise MiniLLMError("tokens, heads, KV heads, components of a head and rounds must each be at least 1.")
    if heads % kv_heads:
        raise MiniLLMError(f"{heads} query heads cannot share {kv_heads} KV heads evenly.")
    bench = Bench(heads, kv_heads, d_head, rounds, threads, peers)
    tokens = sorted(set(tokens))
    processes = len({*PREFILL, *DECODE})
    refuse_beyond_memory(
        processes * bench.input_bytes(tokens[-1], tokens[-1]),
        f"q, k, v and the output for {tokens[-1]:,} tokens, in each of {processes} processes,",
    )
    try:
        say("measuring the machine's ceilings")
        ceiling = machine().json()
        result = {
            "heads": heads,
            "kv_heads": kv_heads,
            "d_head": d_head,
            "threads": threads,
            "rounds": rounds,
            "prefill": [bench.compare(PREFILL, n, n) for n in tokens],
            "decode": [bench.compare(DECODE, 1, n) for n in tokens],
            "memory": bench.memory(tokens[-1]),
            "machine": ceiling,
        }
    finally:
        for worker in bench.workers.values():
            worker.close()
    say("")
    return result


def table(result: dict[str, Any]) -> str:
    """Sizes and implementations as rows; ratios are torch's time over theirs: above 1 is faster than torch, and for paged
    the contiguous kernel's over theirs."""
    r = result
    lines = [f"causal attention, {r['heads']} heads over {r['kv_heads']} KV heads of {r['d_head']}, {r['threads']} threads"]
    for kind, unit, per_s in (("prefill", "GFLOP/s", "flops_per_s"), ("decode", "GB/s", "bytes_per_s")):
        other, other_per_s = ("GB/s", "bytes_per_s") if kind == "prefill" else ("GFLOP/s", "flops_per_s")
        head, rows = [kind, "", "ms", unit, other, "× torch", "× contiguous", ""], []
        for row in r[kind]:
            for name, f in row["engines"].items():
                cells = [f"{row['tokens']:,}", name]
                if "left_out" in f:
                    rows.append([*cells, "", "", "", "", "", f"left out: {f['left_out']}"])
                    continue
                ratios = (row.get(f"ratios_to_{x}", {}).get(name) for x in ("torch", "contiguous"))
                speeds = f"{f['time_s'] * 1e3:,.2f}", f"{f[per_s] / 1e9:,.1f}", f"{f[other_per_s] / 1e9:,.1f}"
                rows.append([*cells, *speeds, *(f"{ratio:.2f}" if ratio else "" for ratio in ratios)])
        lines += ["", terminal.table(head, rows, "><>>>>><")]
    c, m = r["machine"], r["memory"]
    lines.append(f"\nceilings, measured in this run: {c['flops_per_s'] / 1e9:,.0f} GFLOP/s (matrix product), ")
    lines[-1] += f"{c['read_bytes_per_s'] / 1e9:,.1f} GB/s (from memory; a small cache is read faster)"
    naive = "measured" if m["naive_is_measured"] else "by its formula"
    lines.append(
        f"peak memory of a prefill of {m['tokens']:,} beside its inputs: flash_numba {m['flash_numba_bytes'] / 1e6:,.1f} MB, "
        f"naive {m['naive_bytes'] / 1e6:,.1f} MB ({naive}): {m['flash_over_naive']:.2%}"
    )
    return "\n".join(lines)
