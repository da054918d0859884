"""The schedules of FlashAttention-3: one task a unit at a time, none too early, and softmax hides behind products."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.attention.pipeline import EXP, KINDS, TENSOR, bound, gantt, h100_costs, schedule, total, totals
from minillm.errors import MiniLLMError

costs = st.fixed_dictionaries({label: st.integers(1, 9) for label in ("S", "softmax", "PV")})  # integers: sums are exact
kinds = st.sampled_from(KINDS)
small = st.integers(1, 6)
EVEN = {"S": 1, "softmax": 1, "PV": 1}  # an H100 at d = 128 in 16 bits, almost


def overlap(a, b):
    return max(0, min(a.end, b.end) - max(a.start, b.start))


@given(kind=kinds, tiles=small, costs=costs, warpgroups=st.integers(1, 3))
def test_every_piece_of_work_is_done_once_on_its_unit_and_takes_its_time(kind, tiles, costs, warpgroups):
    steps = schedule(kind, tiles, costs, warpgroups)
    work = [(step.label, step.warpgroup, step.tile) for step in steps]
    assert sorted(work) == sorted((c, w, j) for c in costs for w in range(1, warpgroups + 1) for j in range(tiles))
    for step in steps:
        assert step.unit == (EXP if step.label == "softmax" else TENSOR) and step.end - step.start == costs[step.label]
        assert step.start >= 0


@given(kind=kinds, tiles=small, costs=costs, warpgroups=st.integers(1, 3))
def test_no_unit_does_two_things_at_once(kind, tiles, costs, warpgroups):
    steps = schedule(kind, tiles, costs, warpgroups)
    assert not any(overlap(a, b) for a in steps for b in steps if a is not b and a.unit == b.unit)


@given(kind=kinds, tiles=small, costs=costs, warpgroups=st.integers(1, 3))
def test_nothing_starts_before_its_inputs_are_there_or_its_registers_are_free(kind, tiles, costs, warpgroups):
    at = {(step.label, step.warpgroup, step.tile): step for step in schedule(kind, tiles, costs, warpgroups)}
    scores_alive = 2 if kind in ("two-stage", "both") else 1  # tiles of S or P that a warpgroup has registers for
    for w in range(1, warpgroups + 1):
        for j in range(tiles):
            assert at["S", w, j].end <= at["softmax", w, j].start
            assert at["softmax", w, j].end <= at["PV", w, j].start
            if j > 0:  # the running maximum, the accumulator
                assert at["softmax", w, j - 1].end <= at["softmax", w, j].start
                assert at["PV", w, j - 1].end <= at["PV", w, j].start
            if j >= scores_alive:
                assert at["PV", w, j - scores_alive].end <= at["S", w, j].start


@given(tiles=small, costs=costs, warpgroups=st.integers(1, 3))
def test_no_schedule_beats_the_bound_and_sequential_takes_the_sum(tiles, costs, warpgroups):
    times = totals(tiles, costs, warpgroups)
    products, softmaxes = tiles * warpgroups * (costs["S"] + costs["PV"]), tiles * warpgroups * costs["softmax"]
    assert times["bound"] == max(products, softmaxes) == bound(tiles, costs, warpgroups)
    assert times["sequential"] == products + softmaxes
    for kind in KINDS:
        assert times["bound"] <= times[kind] <= times["sequential"]


@given(tiles=st.integers(2, 6), costs=costs)
def test_in_ping_pong_the_softmax_of_one_runs_while_the_other_has_the_tensor_cores(tiles, costs):
    steps = schedule("ping-pong", tiles, costs)
    shadow = {(a.warpgroup, b.warpgroup) for a in steps for b in steps if a.unit == EXP and b.unit == TENSOR and overlap(a, b)}
    assert shadow == {(1, 2), (2, 1)}, "each hides behind the other, and neither behind itself"


@given(tiles=st.integers(2, 6), costs=costs)
def test_in_two_stages_a_warpgroup_alone_hides_the_softmax_behind_its_own_product(tiles, costs):
    at = {(step.label, step.tile): step for step in schedule("two-stage", tiles, costs, warpgroups=1)}
    for j in range(1, tiles):
        assert overlap(at["softmax", j], at["PV", j - 1]) == min(costs["softmax"], costs["PV"])
    steady = costs["S"] + max(costs["PV"], costs["softmax"])
    assert total(at.values()) == (tiles - 1) * steady + sum(costs.values())


def test_sequential_never_overlaps():
    steps = schedule("sequential", 4, EVEN)
    assert not any(overlap(a, b) for a in steps for b in steps if a is not b)


def test_on_an_h100_ping_pong_saves_a_third_of_the_time_in_16_bits_and_half_in_fp8():
    sixteen, eight = h100_costs(128), h100_costs(128, fp8=True)
    assert sixteen["S"] == sixteen["PV"] == 1 and abs(sixteen["softmax"] - 1) < 0.02, "the paper: half the cycles of the products"
    assert eight["S"] == 0.5 and eight["softmax"] == sixteen["softmax"]
    for costs, gain in ((sixteen, 1.5), (eight, 2.0)):
        times = totals(128, costs)
        assert abs(times["sequential"] / times["ping-pong"] - gain) < 0.02
        assert times["both"] <= times["ping-pong"] < 1.01 * times["bound"]


def test_the_text_shows_every_piece_in_its_row():
    text = gantt(schedule("ping-pong", 3, EVEN), width=12)
    assert text.splitlines() == [
        "tensor cores, warpgroup 1 │S·PS··PS··P·│",
        "tensor cores, warpgroup 2 │·S··PS··PS·P│",
        "exponentials, warpgroup 1 │·e··e···e···│",
        "exponentials, warpgroup 2 │··e···e···e·│",
    ]
    assert "S0──" in gantt(schedule("two-stage", 3, EVEN))


@pytest.mark.parametrize("change", [{"tiles": 0}, {"warpgroups": 0}, {"costs": EVEN | {"PV": 0}}, {"kind": "ping"}])
def test_nonsense_is_refused(change):
    with pytest.raises(MiniLLMError, match="pipeline: .*found"):
        schedule(**{"kind": "both", "tiles": 2, "costs": EVEN} | change)
