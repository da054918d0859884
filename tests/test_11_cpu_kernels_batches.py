"""`minillm bench --batch 1,4,…`: one run, one table; its figures follow from its parts. Nothing here asserts a speed."""

import json

import gguf
import pytest
from golden import tiny_models

from minillm.bench import batches
from minillm.bench.compare import ceilings
from minillm.bench.machine import Machine
from minillm.bench.peers.models import MiniLLM
from minillm.cli import main
from minillm.model.load import bits_per_weight, read_config, stored_bytes

MACHINE = Machine(read_bytes_per_s=1e10, flops_per_s=1e11, cores=2, cpu="?")


@pytest.fixture
def ceiling(monkeypatch):
    """The real one takes a second to measure."""
    monkeypatch.setattr("minillm.bench.machine.measure_machine", lambda **_: MACHINE)


@pytest.fixture(scope="module")
def mixed_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "mixed.gguf"
    tiny_models.write_tiny("mixed", path)
    return path


def test_one_command_measures_prefill_and_decode_at_every_batch_size(ceiling, mixed_path, capsys):
    sizes = ["--prompt-tokens", "24", "--new-tokens", "3", "--batch", "1,3,2", "--rounds", "2", "--threads", "1"]
    assert main(["bench", "--model", str(mixed_path), "--backend", "numba", *sizes, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [(r["work"], r["batch"]) for r in result["rows"]] == [("prefill", 1), ("decode", 1), ("decode", 3), ("decode", 2)]
    config, bits = read_config(mixed_path), bits_per_weight(mixed_path, read_config(mixed_path))
    assert (result["backend"], result["kv"], result["threads"], result["bits_per_weight"]) == ("numba", "float16", 1, bits)
    for row in result["rows"]:
        top = ceilings(config, MACHINE, 24, 3, row["batch"], bits, "float16")
        assert row["ceiling_tokens_per_s"] == top[f"{row['work']}_tokens_per_s"] and row["ratios"] == {}
        low, high = row["tokens_per_s_spread"]["minillm"]
        assert 0 < low <= row["tokens_per_s"]["minillm"] <= high
        assert row["share_of_ceiling"] == pytest.approx(row["tokens_per_s"]["minillm"] / row["ceiling_tokens_per_s"])
    assert result["engines"]["minillm"]["peak_rss_bytes"] > 0 and result["machine"]["cores"] == 2
    assert "decode, batch 3" in err and "Peak memory" in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--batch", "1,many"], "--batch takes whole numbers with commas between, found '1,many'"),
        (["--batch", "4,0"], "at least 1"),
        (["--batch", "1,2", "--prompt-tokens", "100000"], "do not fit the model's context"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(mixed_path, capsys, monkeypatch, options, says):
    monkeypatch.setattr("minillm.bench.machine.measure_machine", lambda **_: pytest.fail("something was measured"))
    assert main(["bench", "--model", str(mixed_path), *options]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_row_gives_medians_of_ratios_within_rounds():
    row = batches.row("decode", 4, {"minillm": [8.0, 2.0, 6.0], "llama.cpp": [2.0, 1.0, 2.0]}, 12.0, "bandwidth")
    assert row["tokens_per_s"] == {"minillm": 6.0, "llama.cpp": 2.0} and row["ratios"] == {"to llama.cpp": 3.0}
    assert row["ratios_spread"] == {"to llama.cpp": [2.0, 4.0]} and row["share_of_ceiling"] == 0.5
    engines = {name: {"load_s": 1.0, "peak_rss_bytes": 5e6} for name in ("minillm", "llama.cpp")}
    sizes = {"prompt_tokens": 512, "new_tokens": 32, "threads": 2, "rounds": 3, "bits_per_weight": 5.0}
    names = {"model": "m", "backend": "numba", "kv": "float16", "activations": "exact", "machine": MACHINE.json()}
    text = batches.table({**names, **sizes, "rows": [row], "engines": engines, "agreement": {}})
    assert "3.00 (2.00 to 4.00)" in text and "50%  bandwidth" in text


def test_the_roofline_is_the_slower_of_bytes_and_arithmetic(mixed_path):
    config = read_config(mixed_path)
    slow_memory = Machine(read_bytes_per_s=1.0, flops_per_s=1e18, cores=1, cpu="?")
    slow_sums = Machine(read_bytes_per_s=1e18, flops_per_s=1.0, cores=1, cpu="?")
    by_bytes, by_sums = (ceilings(config, m, 24, 8, 4, 5.0) for m in (slow_memory, slow_sums))
    assert (by_bytes["decode_bound"], by_sums["decode_bound"]) == ("bandwidth", "arithmetic")
    assert by_bytes["decode_tokens_per_s"] == 4 / config.decode_bytes(28, 4, 5.0, 4)
    half = ceilings(config, slow_memory, 24, 8, 4, 5.0, "float16")
    assert half["decode_tokens_per_s"] == 4 / config.decode_bytes(28, 4, 5.0, 2)
    assert by_sums["decode_tokens_per_s"] == 4 / (4 * config.decode_flops(28))


def test_bits_per_weight_are_those_of_the_matrices_in_the_file(mixed_path, tmp_path):
    reader = gguf.GGUFReader(mixed_path)
    matrices = [t for t in reader.tensors if len(t.shape) == 2]
    expected = 8 * sum(t.n_bytes for t in matrices) / sum(t.n_elements for t in matrices)
    assert bits_per_weight(mixed_path, read_config(mixed_path)) == pytest.approx(expected)
    assert stored_bytes(mixed_path) == mixed_path.stat().st_size
    tiny_models.write_tiny("llama_untied", tmp_path / "a.gguf")
    assert bits_per_weight(tmp_path / "a.gguf", read_config(tmp_path / "a.gguf")) == 32


def test_again_decodes_after_the_prompts_that_are_there(mixed_path, monkeypatch):
    engine = MiniLLM(str(mixed_path), 1, "numpy")
    steps, forward = [], engine.model.forward

    def watched(segments):
        steps.append([(len(s.tokens), s.position, int(s.tokens[0])) for s in segments])
        return forward(segments)

    monkeypatch.setattr(engine.model, "forward", watched)
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12]]
    engine.run(prompts, 3)
    first, steps[:] = steps[:], []
    timing = engine.run(prompts, 3, again=True)
    assert steps == first[2:] and [s[0][1] for s in steps] == [4, 5, 6], "the same decode steps, and no prefill"
    assert timing.decode_s > 0
