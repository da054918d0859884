"""How a model wants to be sampled: its file says, else the usual values; a request wins; greedy stays greedy."""

import json

import numpy as np
import pytest

from minillm import LLM, SamplingParams
from minillm.errors import ModelError
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import write_gguf
from minillm.model.defaults import USUAL, chosen_sampling, default_sampling
from minillm.model.random_model import random_model


def with_metadata(source, path, **values):
    """A copy of a GGUF file with more keys."""
    with open_gguf(source) as gguf:
        metadata = {k: v for k, v in gguf.metadata.items() if not k.startswith("general.file_type")} | values
        write_gguf(path, metadata, {name: gguf.dequantize(name) for name in gguf.tensors})
    return path


def folder(path, said):
    """A model's folder, as far as this is concerned."""
    for name, text in (("config.json", "{}"), ("a.safetensors", ""), ("generation_config.json", said)):
        (path / name).write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def test_a_file_that_says_nothing_gets_the_usual_values(tiny_path):
    assert default_sampling(tiny_path) == USUAL == default_sampling(LLM(tiny_path)) == default_sampling(LLM(random_model()))
    SamplingParams(**USUAL)


def test_a_gguf_file_says_how_it_wants_to_be_sampled(tiny_path, tmp_path):
    said = {"temp": np.float32(0.6), "top_k": np.int32(20), "top_p": np.float32(0.95), "penalty_repeat": np.float32(1.1)}
    path = with_metadata(tiny_path, tmp_path / "a.gguf", **{f"general.sampling.{k}": v for k, v in said.items()})
    wanted = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1}
    assert default_sampling(LLM(path)) == wanted, "0.95 and not the 0.949999988 of 32 bits; min_p is not said and so off"
    assert chosen_sampling(path, {"temperature": 0.2, "top_k": None, "seed": 3}) == {**wanted, "temperature": 0.2, "seed": 3}
    assert chosen_sampling(path, {"temperature": 0, "seed": 3}) == {"temperature": 0, "seed": 3}, "greedy stays greedy"


def test_a_folder_says_it_in_generation_config(tmp_path):
    said = {"do_sample": True, "temperature": 0.7, "top_k": -1, "top_p": 0.8, "eos_token_id": [1, 2], "repetition_penalty": None}
    assert default_sampling(folder(tmp_path, said)) == {"temperature": 0.7, "top_k": 0, "top_p": 0.8}
    assert default_sampling(folder(tmp_path, {"eos_token_id": 2})) == USUAL


NONE = ["[1]", "{", {"temperature": "hot"}, {"top_p": 7}, {"top_k": 2.5}, {"top_k": [1]}, {"min_p": True}]


@pytest.mark.parametrize("said", NONE, ids=str)
def test_values_that_are_none_are_an_error_that_names_file_and_key(tmp_path, said):
    with pytest.raises(ModelError, match="generation_config.json") as found:
        default_sampling(folder(tmp_path, said))
    assert "\n" not in str(found.value) and (not isinstance(said, dict) or next(iter(said)) in str(found.value))
