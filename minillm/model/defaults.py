"""Sampling defaults: as the model's authors recommend, else as works for most.

A model that was tuned to be sampled one way reads badly another way: greedy loops, and temperature 1 lets a small model ramble.
So files carry the authors' values, and servers take a field from the request, else from the file, else from a table:

    a .gguf file      general.sampling.temp, .top_k, .top_p, .min_p, .penalty_repeat          llama.cpp writes and reads them
    a folder          generation_config.json: temperature, top_k, top_p, min_p, repetition_penalty      as vLLM does
    neither           USUAL, llama.cpp's own defaults

Temperature 0 stays strictly greedy: it takes none of these, so that a repetition penalty of the model's does not change
which token is the likeliest.

    default_sampling(llm)                                    {"temperature": 0.8, "top_k": 40, ...}
    chosen_sampling(llm, {"temperature": 0.2})               the same with 0.2, as keywords of SamplingParams
"""

from os import PathLike
from pathlib import Path
from typing import Any

from minillm.errors import ModelError, RequestError
from minillm.formats.expect import Fields
from minillm.formats.gguf import open_gguf
from minillm.formats.json_file import read_object
from minillm.model import zoo
from minillm.model.params import SamplingParams

USUAL = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
GGUF_KEYS = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "repetition_penalty": "penalty_repeat"}
LARGEST = 1 << 20  # bytes of a generation_config.json: more is something else


def default_sampling(model: Any) -> dict:  # of an LLM, a name or a path
    """Find the sampling defaults of a model: keywords of SamplingParams. ModelError, GGUFError where the file's are bad."""
    source = getattr(model, "source", model)
    return (recommended(source) if source is not None else {}) or dict(USUAL)


def chosen_sampling(model: Any, given: dict) -> dict:  # of an LLM, a name or a path
    """Complete given sampling parameters by the model's defaults. None means not given. Temperature 0 takes no defaults."""
    given = {name: value for name, value in given.items() if value is not None}
    return merge_defaults(default_sampling(model), given)


def merge_defaults(defaults: dict, given: dict) -> dict:
    """Merge defaults and given values: the request wins; greedy takes no defaults."""
    return given if given.get("temperature") == 0 else defaults | given


def recommended(source: str | PathLike) -> dict:
    """Read the sampling values in the model's own file; {} where there are none."""
    path = zoo.resolve(source)
    if path.is_dir():
        where = path / "generation_config.json"
        said = read_object(where, ModelError, LARGEST) or {}
        keys = {name: name for name in GGUF_KEYS}
    else:
        with open_gguf(path) as gguf:
            where, said = path, gguf.metadata
        keys = {name: f"general.sampling.{key}" for name, key in GGUF_KEYS.items()}
    fields = Fields(said, f"{where}: ", ModelError)
    found = {name: (key, fields.number(key, None)) for name, key in keys.items()}
    return {name: checked(where, key, name, value) for name, (key, value) in found.items() if value is not None}


def checked(path: Path, key: str, name: str, value: float) -> float:
    """Check a value from a file, and put it in our terms: -1 switches top_k off, and 0.95 was stored in 32 bits."""
    try:
        if name == "top_k" and value == -1:
            return 0
        SamplingParams(**{name: value})  # type: ignore[arg-type]  # it says which it takes
    except RequestError as error:
        raise ModelError(f"{path}: {key}: {error}") from None
    return int(value) if name == "top_k" else float(f"{value:.6g}")
