"""`minillm bench attention`: its figures follow from its formulas, and a mistake is one line."""

import copy
import json
from types import SimpleNamespace

import pytest

from minillm import LLM
from minillm.bench import machine
from minillm.bench.attention import Bench, run
from minillm.bench.rounds import curves, in_turn, medians
from minillm.bench.steps import decode_seconds, fill, pace, prefill_seconds
from minillm.cli import main
from minillm.model.random_model import random_model


@pytest.fixture
def ceilings(monkeypatch):
    """The real ones take a second to measure."""
    figures = {"flops_per_s": 1e11, "read_bytes_per_s": 1e10, "cores": 2, "cpu": "?"}
    monkeypatch.setattr(machine, "measure_machine", lambda: SimpleNamespace(json=lambda: figures))
    return figures


def test_the_json_has_time_flops_bytes_and_memory_for_each_size(ceilings, capsys):
    options = ["--tokens", "40,24", "--heads", "6", "--kv-heads", "2", "--d-head", "16", "--rounds", "1", "--threads", "1"]
    assert main(["bench", "attention", *options, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [row["tokens"] for row in result["prefill"]] == [row["tokens"] for row in result["decode"]] == [24, 40]
    for row in result["prefill"]:
        n = row["tokens"]
        assert row["flops"] == 4 * 16 * 6 * n * (n + 1) // 2
        assert set(row["engines"]) == {"naive_numpy", "flash_numpy", "flash_numba"}
        for name, figures in row["engines"].items():
            moved = 4 * (2 * n * 6 * 16 + 2 * n * 2 * 16 + (4 * 6 * n * n if name == "naive_numpy" else 0))
            assert figures["bytes"] == moved
            assert figures["flops_per_s"] == pytest.approx(row["flops"] / figures["time_s"])
    for row in result["decode"]:
        n = row["tokens"]
        assert row["flops"] == 4 * 16 * 6 * n
        assert row["engines"]["flash_numba"]["bytes"] == 4 * (2 * 6 * 16 + 2 * n * 2 * 16)
        assert row["engines"]["flash_numba_float16"]["bytes"] == 4 * 2 * 6 * 16 + 2 * 2 * n * 2 * 16
        for suffix in ("", "_float16"):
            paged, flash = (row["engines"][kind + suffix] for kind in ("paged_numba", "flash_numba"))
            assert paged["bytes"] == flash["bytes"]
            assert row["ratios_to_contiguous"]["paged_numba" + suffix] == pytest.approx(flash["time_s"] / paged["time_s"])
    assert result["memory"]["naive_is_measured"] and result["memory"]["naive_bytes"] >= 3 * 4 * 6 * 40 * 40
    assert result["machine"] == ceilings
    assert all(words in err for words in ("flash_numba", "paged_numba_float16", "GFLOP/s", "× contiguous"))


def test_the_paged_engine_computes_what_the_contiguous_one_does():
    import numpy as np

    from minillm.bench.peers.attention import IMPLEMENTATIONS, draw

    rng = np.random.default_rng(0)
    q, k, v = draw(rng, (1, 6, 16)), draw(rng, (40, 2, 16)), draw(rng, (40, 2, 16))
    for suffix in ("", "_float16"):
        paged, flash = (IMPLEMENTATIONS[kind + suffix](1)(q, k, v)() for kind in ("paged_numba", "flash_numba"))
        np.testing.assert_array_equal(paged, flash)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--tokens", "1000000000"], "bytes"),
        (["--tokens", "10,many"], "--tokens takes whole numbers with commas between, found '10,many'"),
        (["--tokens", "0"], "at least 1"),
        (["--heads", "9", "--kv-heads", "2"], "9 query heads cannot share 2 KV heads"),
        (["--rounds", "0"], "at least 1"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(ceilings, capsys, monkeypatch, options, message):
    monkeypatch.setattr(Bench, "ask", lambda *_, **__: pytest.fail("a process was started"))
    assert main(["bench", "attention", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_what_does_not_fit_or_takes_too_long_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(Bench, "ask", lambda self, name, queries, tokens, **_: {"time_s": 0.1, "peak_bytes": 1})
    monkeypatch.setattr("minillm.bench.attention.available_bytes", lambda: 10**9)
    result = run([512, 8192], 9, 9, 64, 1, 2, True, lambda: SimpleNamespace(json=dict))
    small, large = result["prefill"]
    assert not any("left_out" in figures for figures in small["engines"].values())
    assert "7,247,757,312 bytes" in large["engines"]["naive_numpy"]["left_out"]
    assert "about 26 s" in large["engines"]["flash_numpy"]["left_out"]
    assert large["ratios_to_torch"] == {"flash_numba": 1.0}
    assert not result["memory"]["naive_is_measured"]


def test_ways_take_turns_and_each_round_begins_with_another():
    asked = []
    found = in_turn(["a", "b", "slow"], 4, lambda name: asked.append(name) or len(asked), once={"slow"})
    assert "".join(name[0] for name in asked) == "abs" + "ba" + "ab" + "ab"
    assert found == {"a": [1, 5, 6, 8], "b": [2, 4, 7, 9], "slow": [3]}
    assert in_turn([], 3, asked.append) == {}


def test_curves_warm_each_way_up_and_measure_all_points_in_turn():
    asked = []
    ways = {name: lambda x, name=name: asked.append(f"{name}{x}") or len(asked) for name in "ab"}
    found = curves(ways, [1, 2], rounds=2)
    assert " ".join(asked) == "a1 b1  a1 b1 a2 b2  b1 a2 b2 a1".replace("  ", " ")
    assert found == {"a": [[3, 10], [5, 8]], "b": [[4, 7], [6, 9]]}
    assert medians(found["a"]) == [6.5, 6.5]


def test_steps_at_a_context_need_no_prefill():
    model = LLM(random_model()).transformer
    caches = [fill(model.new_cache(), model.config, n) for n in (5, 9, 0)]
    assert [cache.lengths for cache in caches] == [[n] * model.config.n_layers for n in (5, 9, 0)]
    assert min(cache.read(0)[0].std() for cache in caches[:2]) > 0.5, "keys are no zeros"
    assert len(decode_seconds(model, caches, 3)) == 3
    assert [cache.length for cache in caches] == [8, 12, 3]


def test_a_pace_is_of_tokens_that_do_not_depend_on_the_model_object():
    llm = LLM(random_model())
    other = copy.copy(llm.transformer)
    (speed, tokens), (_, same) = pace(llm, llm.transformer, 5, 4), pace(llm, other, 5, 4)
    assert speed > 0 and tokens == same and len(tokens) == 4
    assert 0 < prefill_seconds(llm.transformer, 7) < 60
