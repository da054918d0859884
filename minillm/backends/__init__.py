"""Floor 2: the same operations, one module per kind of machine.

`ops` is the contract. `numpy_` hands on the reference of floor 1. A fast backend offers the same function names, so two files
can be read side by side, and one test runs every operation of every backend that is present against the reference.
"""

import importlib
import os
from collections.abc import Iterable

from minillm.backends.ops import Ops, ops_of
from minillm.errors import MiniLLMError, did_you_mean
from minillm.folders import kernels_folder
from minillm.terminal import notice

BACKENDS = {"numpy": "minillm.backends.numpy_", "numba": "minillm.backends.numba_"}
PACKED = {  # types whose matrices a backend multiplies as they are packed; of others it makes floats when it loads them
    "numba": (
        "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "NF4",
        "INT2_G32", "INT2_G64", "INT2_G128", "INT3_G32", "INT3_G64", "INT3_G128", "INT4_G64", "INT4_G128",
        "INT8_G32", "INT8_G64", "INT8_G128",
    ),
}
FLOATS = "F32", "F16", "BF16"  # those are floats everywhere
WORTH_COMPILING = 50_000_000  # bytes of a model: with fewer, NumPy answers before the kernels are compiled


def get_backend(name: str | None = None) -> Ops:
    """Get the operations of the backend called `name`; by default MINILLM_BACKEND's, else numpy's."""
    name = name or os.environ.get("MINILLM_BACKEND") or "numpy"
    if name not in BACKENDS:
        raise MiniLLMError(f"no backend is called {name!r}; {did_you_mean(name, BACKENDS)}")
    try:
        module = importlib.import_module(BACKENDS[name])
    except ImportError as error:
        raise MiniLLMError(f"the {name} backend cannot be loaded here: {error}.") from error
    return ops_of(module)


def without_kernels(backend: str, types: Iterable[str]) -> list[str]:
    """List which of these types of matrices a backend has no kernels for, though it has them for others (FP8, on numba)."""
    packed = PACKED.get(backend)
    return [] if packed is None else sorted(set(types) - {*packed, *FLOATS})


def fitting_backend(model_bytes: int, kinds: str = "", types: Iterable[str] = ()) -> str:
    """Choose the backend for "auto", the default of the commands that run a model. types: of its matrices; kinds: the name under
    which its kernels are kept.

    What MINILLM_BACKEND says, where it is set. numpy, and a notice, where numba has no kernels for one of the types. Else numba,
    where it can be loaded and its kernels for such a model are kept, or the model is large enough to repay the minute that they
    take to compile, once for a machine; else numpy. The Python API does not choose: `LLM(...)` is numpy, the code that the
    lessons read, unless it is told otherwise.
    """
    if chosen := os.environ.get("MINILLM_BACKEND"):
        return chosen
    if lacking := without_kernels("numba", types):
        notice(f"numba has no kernels for {' and '.join(lacking)}: the model runs on numpy, its matrices as float32.")
        return "numpy"
    large = model_bytes >= WORTH_COMPILING
    if not (large or any(kernels_folder().glob("*/ready-*"))):  # Numba itself takes a second to load
        return "numpy"
    try:
        ops = get_backend("numba")
    except MiniLLMError:
        return "numpy"
    return "numba" if large or (ops.ready and ops.ready(kinds)) else "numpy"
