"""`minillm bench`: prefill and decode of a model, beside the machine's ceilings and, if asked for, beside peers.

One batch size is a comparison of engines (compare.py); several are one table of a model (batches.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minillm.backends import get_backend
from minillm.bench import batches as by_batch
from minillm.bench import compare, machine, report
from minillm.bench.machine import Machine
from minillm.bench.peers import ENGINES, chosen
from minillm.errors import MiniLLMError
from minillm.model.load import bits_per_weight, read_config, resolve_backend
from minillm.terminal import say

PEERS = ("exact", "llama.cpp", "OpenVINO", "vLLM", "transformers")


def peers(batches, wanted=None, activations="exact"):  # [int], names with commas between -> engines to stand beside ours
    """Choose peers: those asked for, else all that are installed; for a table without transformers, which would take minutes.

    Beside 8-bit activations our exact ones are a peer, "exact".
    """
    known = {name: ENGINES[name] for name in PEERS[activations == "exact" :]}
    return chosen(wanted, known if wanted or len(batches) == 1 else {n: e for n, e in known.items() if n != "transformers"})


def run(
    path: Path, batches: Sequence[int], prompt_tokens: int, new_tokens: int, rounds: int, backend: str | None = "auto",
    kv: str | None = None, threads: int | None = None, peers: Sequence[str] = (), activations: str = "exact",
) -> dict[str, Any]:
    """Measure ours and `peers` in turn. Errors: MiniLLMError for sizes that do not fit the model, before anything is loaded."""
    config, backend = read_config(path), resolve_backend(backend, path, activations)
    if peers and path.is_dir():
        raise MiniLLMError(f"peers are measured on a GGUF file, which all of them can be given; {path} is a folder.")
    compare.check_sizes(config, prompt_tokens, new_tokens, min(batches), rounds)
    bits = 32 if backend == "numpy" else bits_per_weight(path, config)

    def measure() -> Machine:
        say("measuring the machine's ceilings")
        return machine.measure_machine(kernels=backend == "numba")

    work = path, config, measure, ["minillm", *peers], prompt_tokens, new_tokens
    rest = rounds, threads or machine.available_cores(), backend, bits, kv or get_backend(backend).kv_dtype, activations
    one = len(batches) == 1
    result = compare.compare(*work, batches[0], *rest) if one else by_batch.compare_batches(*work, batches, *rest)
    say("")
    return result


def table(result: dict[str, Any]) -> str:
    return (by_batch if "batches" in result else report).table(result)
