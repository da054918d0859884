"""Floor 8: measurement. Work is reported beside its ceiling, and beside its peers in the same run."""

import importlib
from types import ModuleType

BENCHMARKS = {  # minillm bench NAME -> the module here: its run(…) -> result, ready for JSON; its table(result) -> text
    "model": "model",
    "attention": "attention",
    "ttft": "prefix",
    "paging": "replay",
    "prefix": "replay",
    "blocks": "blocks",
    "serving": "serving",
    "training": "training_speed",
    "pair": "pair",
    "stories": "stories",
    "kernels": "kernels",
    "busy": "busy",
    "loading": "loading",
    "quantization": "quantization",
    "activations": "activations",
    "speculation": "speculation",
}


def benchmark(name: str) -> ModuleType:
    """Import a benchmark, and with it NumPy and more, only once it is chosen."""
    return importlib.import_module(f"minillm.bench.{BENCHMARKS[name]}")
