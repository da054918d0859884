"""Mixes: every tensor gets the type that llama.cpp's quantizer gives it, for every mix, on every shape that rules ask about."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from golden import mix_models

from minillm.errors import GGUFError
from minillm.formats import mixes
from minillm.formats.gguf import open_gguf
from minillm.formats.mixes import MIXES, mix_named, types_for

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mixes.json").read_text())["types"]
SPEC = mix_models.Spec(layers=8)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """written(spec) -> path of its file, made once."""
    folder, made = tmp_path_factory.mktemp("mixes"), {}

    def write(spec):
        if spec not in made:
            made[spec] = mix_models.write(spec, folder / f"{len(made)}.gguf")
        return made[spec]

    return write


def names_of(path, mix, imatrix=False):  # -> {name of a tensor: name of its type}
    with open_gguf(path) as source:
        return {name: type_.name for name, type_ in types_for(source, mix_named(mix), imatrix).items()}


def test_every_mix_is_known_by_llama_cpps_number():
    assert {name: mix.file_type for name, mix in MIXES.items()} == mix_models.MIXES
    assert GOLDEN.keys() == {f"{spec}: {mix}" for spec in mix_models.SPECS for mix in MIXES}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("spec", mix_models.SPECS)
def test_each_tensor_gets_the_type_that_llama_cpp_gives_it(written, spec, mix):
    path = written(mix_models.SPECS[spec])
    assert mix_models.by_role(names_of(path, mix, mix_models.SPECS[spec].imatrix)) == GOLDEN[f"{spec}: {mix}"]


def test_the_models_of_the_golden_file_meet_every_rule(written, monkeypatch):
    """A rule that holds nowhere, or everywhere, would not be tested."""
    rules = {rule for mix in MIXES.values() for rows in mix.rules.values() for rule, _ in rows} - {mixes.always}
    assert {rule.__name__ for rule in rules} == {
        "grouped", "outer_and_every_third", "first_eighth", "first_sixteenth", "first_two", "first_four",
        "first_eighth_without_imatrix", "first_eighth_with_imatrix",
    }  # fmt: skip
    sites = [
        mixes.Site(layer, spec.layers, spec.heads // spec.kv_heads, spec.experts, spec.imatrix)
        for spec in mix_models.SPECS.values() for layer in range(spec.layers)
    ]  # fmt: skip
    for rule in rules:
        assert {rule(site) for site in sites} == {True, False}, rule.__name__


@pytest.mark.parametrize("name", ["tiny", "smollm2-135m"])
def test_vectors_stay_as_they_are(name, request):
    from minillm.model import zoo

    path = zoo.resolve(name) if name == "tiny" else request.getfixturevalue("smollm2_path")
    with open_gguf(path) as source:
        for mix in MIXES:
            kept = types_for(source, mix_named(mix))
            assert all(kept[n] == t.type for n, t in source.tensors.items() if len(t.shape) == 1), mix


def test_a_matrix_of_one_row_is_a_vector(tmp_path, monkeypatch):
    """ggml does not count dimensions of 1 at the end, so its quantizer leaves such a matrix alone."""
    monkeypatch.setattr(mix_models, "ROWS", 1)
    path = mix_models.write(SPEC, tmp_path / "one.gguf")
    assert set(names_of(path, "q4_0").values()) == {"F16", "F32"}


def test_case_does_not_matter_and_an_unknown_type_is_told_the_nearest():
    assert mix_named("Q4_K_M") is mix_named("q4_K") is MIXES["q4_k_m"]
    with pytest.raises(GGUFError, match="no type is called 'q4_k_n'; did you mean 'q4_k_"):
        mix_named("q4_k_n")
    with pytest.raises(GGUFError, match="no type is called '7'; there are: f32, f16, bf16, q8_0"):
        mix_named("7")


def test_an_architecture_with_rules_of_its_own_is_refused(written, tmp_path):
    path = mix_models.write(replace(SPEC, architecture="falcon"), tmp_path / "falcon.gguf")
    with pytest.raises(GGUFError, match="falcon.gguf: which types suit architecture 'falcon' is not known; these are: llama, "):
        names_of(path, "q4_k_m")


@pytest.mark.parametrize(("key", "value", "says"), [
    ("llama.block_count", "x", "'llama.block_count'|llama.block_count: expected a whole number"),
    ("llama.attention.head_count_kv", 0, "head_count_kv: expected a whole number from 1"),
    ("general.architecture", 3, "general.architecture"),
])  # fmt: skip
def test_metadata_that_say_nothing_useful_are_refused(written, key, value, says):
    with open_gguf(written(SPEC)) as source:
        source.metadata[key] = value
        with pytest.raises(GGUFError, match=says):
            types_for(source, mix_named("q4_k_m"))
