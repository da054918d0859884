"""Other engines and ours behind one call, each measured in a process of its own."""

import importlib
import importlib.util
from typing import Any

ENGINES = {  # name -> where its class is, imported in the process that measures it
    "minillm": ("models", "MiniLLM"),
    "llama.cpp": ("models", "LlamaCpp"),
    "transformers": ("models", "Transformers"),
    "attention": ("attention", "AttentionEngine"),
    "training": ("training", "OurTraining"),
    "torch training": ("training", "TorchTraining"),
}
NEEDS = {"llama.cpp": ("llama_cpp",), "transformers": ("torch", "transformers", "gguf")}


def engine(name: str) -> Any:
    """Import an engine."""
    module, cls = ENGINES[name]
    return getattr(importlib.import_module(f"minillm.bench.peers.{module}"), cls)


def installed(name: str) -> bool:
    """Whether what an engine needs can be imported here."""
    return all(importlib.util.find_spec(package) for package in NEEDS.get(name, ()))
