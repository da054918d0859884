"""Floor 1: the same operations, one module per kind of machine.

`numpy_` hands on the reference of floor 0. A fast backend offers the same function names, so two files can be read side
by side, and one test runs every operation of every backend that is present against the reference.
"""

import importlib
import os

from minillm.errors import MiniLLMError

BACKENDS = {"numpy": "minillm.backends.numpy_", "numba": "minillm.backends.numba_"}


def get_backend(name=None):
    """The module of operations called `name`; by default what MINILLM_BACKEND says, else numpy."""
    name = name or os.environ.get("MINILLM_BACKEND") or "numpy"
    if name not in BACKENDS:
        raise MiniLLMError(f"no backend is called {name!r}; there are: {', '.join(BACKENDS)}.")
    return importlib.import_module(BACKENDS[name])
