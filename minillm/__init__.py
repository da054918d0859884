"""minillm: a small LLM inference engine that you can read.

    from minillm import LLM, SamplingParams
    llm = LLM("tiny")
    for piece in llm.stream("Once upon a time"):
        print(piece, end="")
"""

from typing import TYPE_CHECKING

from minillm.errors import MiniLLMError

if TYPE_CHECKING:
    from minillm.gateway.session import Session
    from minillm.llm import LLM
    from minillm.model.params import SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "MiniLLMError", "SamplingParams", "Session", "__version__"]

LAZY = {"LLM": "minillm.llm", "SamplingParams": "minillm.model.params", "Session": "minillm.gateway.session"}


def __getattr__(name: str) -> object:
    """Load the engine at first use: `import minillm` alone stays quick."""
    if name in LAZY:
        import importlib

        return getattr(importlib.import_module(LAZY[name]), name)
    raise AttributeError(f"module 'minillm' has no attribute {name!r}")
