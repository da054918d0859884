"""Lesson 10 follows four words by hand, and one server on paper: what stands there is what the code computes."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from minillm.costs.speculation import (
    acceptance_rate,
    best_gamma,
    check_cost,
    crossover_batch,
    expected_tokens,
    speculative_speedup,
)
from minillm.costs.time import decode_time, ridge_batch
from minillm.model.presets import preset
from minillm.speculative.verify import accept_or_replace

LESSON = (Path(__file__).parents[1] / "lessons" / "10_speculative_decoding.md").read_text(encoding="utf-8")
P, Q = np.array([0.5, 0.3, 0.15, 0.05]), np.full(4, 0.25)
SHAPE, A100 = preset("llama-3-8b"), {"flops": 312e12, "bandwidth": 2.039e12}


def test_the_table_adds_up_to_the_target():
    rows = re.findall(r"^\| (the|a|her|no) \| ([\d.]+) \| ([^|]+) \| ([\d.]+) \|$", LESSON, re.M)
    assert [row[0] for row in rows] == re.findall(r"\*(\w+)\* [\d.]+,? ?", LESSON.split("## Why")[0])
    left = np.maximum(P - Q, 0)
    for (_, kept, replaced, total), p, q, rest in zip(rows, P, Q, left / left.sum(), strict=True):
        assert float(kept) == pytest.approx(min(p, q)) and float(total) == pytest.approx(p)
        assert float(replaced.split("=")[-1]) == pytest.approx((1 - acceptance_rate(P, Q)) * rest)
    assert "here $\\alpha$ = 0.7." in LESSON and acceptance_rate(P, Q) == pytest.approx(0.7)
    assert "*her* with 0.15/0.25 = 0.6 and *no* with 0.2" in LESSON


def test_the_rule_does_what_the_table_says():
    """Ten thousand of each draft: off by chance in one run of 10⁶ at most (five standard errors)."""
    rng, runs = np.random.default_rng(0), 10_000
    found = np.zeros(4)
    for draft in range(4):
        for _ in range(runs):
            found[accept_or_replace(P, Q, draft, rng)] += Q[draft] / runs
    np.testing.assert_allclose(found, P, atol=5 * 0.5 / np.sqrt(4 * runs))


def test_the_server_on_paper():
    expected, gain = expected_tokens(0.7, 4), speculative_speedup(0.7, 4, 0.05)
    assert f"{expected:.2f} / 1.2" in LESSON and f"= [{gain:.2f}](" in LESSON
    assert f"that takes {1e3 * decode_time(SHAPE, A100['bandwidth']):.1f} ms" in LESSON
    ridge = ridge_batch(**A100)
    assert f"{ridge:.0f} tokens on an A100" in LESSON and "a thirtieth" in LESSON and ridge / 5 == pytest.approx(30, abs=1)
    cross = crossover_batch(SHAPE, **A100, alpha=0.7, gamma=4, cost=0.05)
    assert f"so from [{cross}](" in LESSON and f"> E - \\gamma c = {expected - 0.2:.2f}$" in LESSON
    assert f"The rejected {1 - expected / 5:.0%} of the work" in LESSON
    for gamma, said in ((4, "$S$ = 2.77 / (0.2 + 2.1) = 1.2"), (1, "$S$ = 1.7 / 1.05 = 1.6")):
        check = check_cost(SHAPE, **A100, gamma=gamma, batch=64)
        assert said in LESSON and f"{speculative_speedup(0.7, gamma, 0.05, check):.1f}" == said.split()[-1]
    assert best_gamma(0.5, 0.5) == 0 and best_gamma(0.7, 0.1) == 4 and best_gamma(0.7, 0.3) == 2
    assert "At α = 0.7 and c = 0.1 it is 4, at c = 0.3 it is 2." in LESSON


def test_kept_figures_are_what_the_notebook_asks_for():
    """Each row is there once by the names that join runs; and each ratio of a round is beside their median."""
    folder = Path(__file__).parents[1] / "data" / "results"
    script = runpy.run_path(str(folder / "speculation.py"))
    for result in json.loads((folder / "speculation.json").read_text(encoding="utf-8")).values():
        assert all(key in result for key in script["SAME"])
        names = [tuple(row[key] for key in script["LISTS"]["rows"]) for row in result["rows"]]
        assert len(names) == len(set(names)) and {("stories", "eagle", 4, 1), ("copying", "ngram", 4, 1)} <= set(names)
        for row in result["rows"]:
            assert len(row["speed_ups"]) == result["rounds"] and min(row["speed_ups"]) <= row["speed_up"] <= max(row["speed_ups"])
