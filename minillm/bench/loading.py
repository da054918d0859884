"""`minillm bench loading`: from a file to the first token, and what it takes in memory: mapped, read, unpacked, packed anew.

    mapped     the file is mapped, a matrix is decoded when it is multiplied (in_place.py): no memory of its own
    read       the same, but the bytes are read into memory first
    numpy      our reference: every matrix as float32, made when the model is loaded
    numba      our kernels: every matrix packed anew, as they read it

Each way is a process of its own, first with the file on the disk alone (cold), then with all of it in the page cache (warm).
Then two processes of each way run at once: pages of the file are there once for both, so each counts half of them (Pss). Seconds
are noise on a busy machine; bytes and page faults are counts.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minillm import terminal
from minillm.bench import proc
from minillm.bench.rounds import in_turn
from minillm.errors import MiniLLMError
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_split import named_parts
from minillm.terminal import say

WAYS = ("mapped", "read", "numpy", "numba")
CACHES = ("cold", "warm")


class Child:
    """A process that loads the model one way, says what it took, and keeps it until it is closed."""

    def __init__(self, way: str, path: Path, prompt_tokens: int) -> None:
        command = [sys.executable, "-m", "minillm.bench.loading_child", way, str(path), str(prompt_tokens)]
        errors = None if os.environ.get("MINILLM_DEBUG") else subprocess.DEVNULL
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        self.way, self.process = way, subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        self.answer()  # it has imported what it needs

    def start(self) -> None:
        self.process.stdin.write("\n")  # type: ignore[union-attr]  # a pipe
        self.process.stdin.flush()  # type: ignore[union-attr]

    def answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            code = self.process.wait()
            raise MiniLLMError(f"{self.way}: the measuring process ended with status {code}; MINILLM_DEBUG=1 shows why.")
        answer = json.loads(line)
        if "error" in answer:
            raise MiniLLMError(answer["error"])
        return answer

    def ask(self) -> dict[str, Any]:
        self.start()
        return self.answer()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()


def run(path: Path, ways: Sequence[str] = WAYS, prompt_tokens: int = 8, rounds: int = 3) -> dict[str, Any]:
    """Measure each way, cold and warm in turn, then two of each at once. MiniLLMError where the system does not tell."""
    if not proc.available():
        raise MiniLLMError("bench loading reads /proc/self/smaps_rollup and /proc/self/io, expected Linux, found neither.")
    with open_gguf(path) as gguf:
        facts = {"file_bytes": gguf.nbytes, "weights": sum(t.size for t in gguf.tensors.values())}
    once(ways, path, prompt_tokens)
    cases = [(way, cache) for cache in CACHES for way in ways]
    found = in_turn(cases, rounds, lambda case: alone(case[0], case[1], path, prompt_tokens))
    rows: dict[str, Any] = {way: {cache: figures(found[way, cache]) for cache in CACHES} for way in ways}
    for way in ways:
        say(f"two processes at once: {way}")
        rows[way]["two"] = two(way, path, prompt_tokens)
    say("")
    return {"model": path.stem, **facts, "prompt_tokens": prompt_tokens, "rounds": rounds, "ways": rows}


def once(ways: Sequence[str], path: Path, prompt_tokens: int) -> None:
    """Compile kernels, where there are any, so that later processes find them; the tokens of all ways must agree."""
    tokens = {}
    for way in ways:
        say(f"first run: {way}")
        with Child(way, path, prompt_tokens) as child:
            tokens[way] = child.ask()["token"]
    if len(set(tokens.values())) > 1 and not near(tokens):
        raise MiniLLMError(f"{path}: the ways of loading disagree on the first token: {tokens}.")


def near(tokens: dict[str, int]) -> bool:
    """Whether only Numba, which rounds activations, says another token: of a random model the two best may be a hair apart."""
    return len({token for way, token in tokens.items() if way != "numba"}) == 1


def alone(way: str, cache: str, path: Path, prompt_tokens: int) -> dict[str, Any]:
    with Child(way, path, prompt_tokens) as child:
        for part in named_parts(path):
            if cache == "cold":
                proc.evict(part)
            else:
                part.read_bytes()
        return child.ask()


def two(way: str, path: Path, prompt_tokens: int) -> list[dict[str, Any]]:
    """Run two at once; when both have the model, ask both what they take."""
    with Child(way, path, prompt_tokens) as a, Child(way, path, prompt_tokens) as b:
        for child in (a, b):
            child.ask()
        return [child.ask() for child in (a, b)]


def figures(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fastest seconds; the counts of that round."""
    return min(rounds, key=lambda found: found["ttft_s"])


def table(result: dict[str, Any]) -> str:
    """Format a line for each way and cache, then what two processes take together."""
    head = ["", "page cache", "load s", "TTFT s", "disk MB", "major faults", "minor faults", "own MB", "of the file MB"]
    rows = []
    for cache in CACHES:
        for way, found in result["ways"].items():
            f = found[cache]
            counts = f"{f['disk_bytes'] / 1e6:,.1f}", f"{f['major_faults']:,}", f"{f['minor_faults']:,}"
            memory = megabytes(f["own_bytes"]), megabytes(f["file_rss_bytes"])
            rows.append([way, cache, f"{f['load_s']:.2f}", f"{f['ttft_s']:.2f}", *counts, *memory])
    together = []
    for way, found in result["ways"].items():
        one, each = share(found["warm"]), [share(other) for other in found["two"]]
        together.append([way, *map(megabytes, (one, *each, sum(each))), f"{sum(each) / (2 * one):.0%}"])
    size = f"{result['file_bytes'] / 1e6:,.1f} MB, {result['weights']:,} weights"
    about = f"{result['model']}: {size}, {result['prompt_tokens']} tokens in, one out; best of {result['rounds']}"
    what = "own: pages that no file stands behind, beyond those before loading. Two processes, own + Pss of the file:"
    names = ["", "alone MB", "first of two", "second", "together", "of 2 x alone"]
    return "\n".join([about, terminal.table(head, rows, "<<"), what, terminal.table(names, together)])


def share(found: dict[str, Any]) -> int:
    """Bytes of memory that a process accounts for."""
    return found["own_bytes"] + found["file_pss_bytes"]


def megabytes(nbytes: float) -> str:
    return f"{nbytes / 1e6:,.1f}"
