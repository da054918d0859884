"""One engine in a process of its own, asked over a pipe: so that engines alternate within one run and share nothing.

The parent starts `python -m minillm.bench.worker` with the thread counts in the environment, sends the engine's name
and options as a line of JSON, then one line per measurement; the worker answers each with a line. Everything that a
library prints goes to standard error. A peer's python may be that of another environment (peers/environments.py), where
nothing of ours is installed: what is imported on the worker's side needs the standard library, and NumPy at most.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minillm.bench.machine import peak_rss_bytes
from minillm.bench.peers import ENGINES
from minillm.bench.peers.environments import command, python_with
from minillm.errors import MiniLLMError
from minillm.terminal import say

OURS = "minillm", "exact"
THREAD_VARIABLES = tuple(f"{library}_NUM_THREADS" for library in ("OPENBLAS", "MKL", "OMP", "NUMBA"))
THREAD_VARIABLES += ("VECLIB_MAXIMUM_THREADS",)  # Apple's BLAS


@dataclass
class Worker:
    """The parent's side: start an engine, measure, stop. `loaded` says how long loading took, and with which precision."""

    engine: str
    path: str
    threads: int
    options: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        python = python_with(ENGINES[self.engine].needs) or sys.executable
        self.process = subprocess.Popen(
            command(python, "minillm.bench.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("MINILLM_DEBUG") else None,
            text=True,
            env=environment,
        )
        self.loaded = self.ask(engine=self.engine, path=self.path, threads=self.threads, **self.options)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a line, wait for the answer."""
        process: Any = self.process  # both ends are pipes
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            raise MiniLLMError(f"{self.engine}: the measuring process ended with status {code}; MINILLM_DEBUG=1 shows why.")
        answer = json.loads(line)
        if "error" in answer:
            raise MiniLLMError(f"{self.engine}: {answer['error']}")
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def workers(  # -> {engine: Worker}
    engines: Sequence[str], path: str | Path, threads: int, **options: Any
) -> Iterator[dict[str, Worker]]:
    """Start a process for each engine; all end with the block. options: for those that are ours."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name in engines:
            say(f"loading {name}")
            read = stack.enter_context(bfloat16_folder(path)) if ENGINES[name].folder else path
            found[name] = Worker(name, str(read), threads, options if name in OURS else {})
            stack.callback(found[name].close)
        yield found


@contextlib.contextmanager
def bfloat16_folder(path, tokenizer=False):  # a GGUF file -> a folder, while the block runs
    """Write the model as peers that read no GGUF want it."""
    from minillm.model.write_folder import convert

    with tempfile.TemporaryDirectory(prefix="minillm-") as folder:
        yield convert(path, folder, tokenizer, "bfloat16")


def serve() -> None:
    """Run the worker's side."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)  # C libraries print to 1
    engine = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if engine is None:
                from minillm.bench.peers import engine as engine_class

                start = time.perf_counter()
                engine = engine_class(request.pop("engine"))(**request)
                answer = {"load_s": time.perf_counter() - start, "precision": getattr(engine, "precision", "")}
            else:
                answer = asdict(engine.run(**request))
            answer["peak_rss_bytes"] = peak_rss_bytes()
        except Exception as error:  # whatever happens in here, the parent must hear of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
