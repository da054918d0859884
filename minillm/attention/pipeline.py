"""FlashAttention-3's pipeline: softmax in the shadow of the matrix products.

A tile of attention is three pieces of work in a row, S = Q Kᵀ, then the softmax, then P V, on two kinds of units: tensor
cores for the products, and special function units for the exponentials. An H100 does 989 TFLOP/s of 16-bit products, but
only 3.9 T exponentials a second. At d = 128 a score costs 256 FLOPs in each product and one exponential: all three take
about the same time, and tensor cores that wait for the softmax idle for a third of it. In FP8 the products take half as
long, the softmax does not: they idle for half. Two ways to keep them busy:

    ping-pong        two warpgroups, each with its own rows of Q; barriers make them take turns at the tensor cores, so
                     that one does its products (P V of tile j, then S of tile j + 1) while the other does its softmax.
    within one       a warpgroup starts S of tile j before P V of tile j - 1, and its softmax of tile j
    warpgroup        runs while P V of tile j - 1 does. Costs registers: two tiles of scores are alive.

    tensor cores   S1 S2 P1 S1 P2 S2 P1 S1 P2 S2 ...      the figure: warpgroups 1 and 2 in ping-pong
    exponentials      E1 E2    E1    E2    E1    E2       (S = Q Kᵀ, E = softmax, P = P V)

No schedule takes less than the busier unit has work: time ≥ max(Σ products, Σ softmax).

This is a model: two units, each doing one thing at a time in the order in which it was asked, and nothing else costs
time. Shah et al. 2024, arXiv:2407.08608, §3.1 (ping-pong) and §3.2, Algorithm 2 (two stages).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from minillm.errors import MiniLLMError

TENSOR, EXP = "tensor cores", "exponentials"
UNIT = {"S": TENSOR, "softmax": EXP, "PV": TENSOR}
KINDS = ("sequential", "two-stage", "ping-pong", "both")
H100_MATMUL, H100_EXP = 989e12, 3.9e12  # FLOP/s in 16 bits, exponentials/s: the paper, §3.1

Step = tuple[str, int, int]  # label, warpgroup, tile


class Task(NamedTuple):
    """One piece of work: its kind (S, softmax or PV), tile of keys and warpgroup, and when a unit runs it."""

    unit: str
    start: float
    end: float
    label: str
    warpgroup: int
    tile: int


def h100_costs(d: int, fp8: bool = False) -> dict[str, float]:  # int -> {"S": time, "softmax": time, "PV": time}
    """Estimate the time of each piece of work on a tile on an H100; the unit is one product in 16 bits."""
    product, softmax = 2 * d / H100_MATMUL, 1 / H100_EXP
    return {"S": 0.5 if fp8 else 1.0, "softmax": softmax / product, "PV": 0.5 if fp8 else 1.0}


def order(kind: str, tiles: int, warpgroups: int) -> list[Step]:  # -> [(label, warpgroup, tile)]
    """Choose the order in which work is issued to the units: the only difference between the kinds of schedule.

    "sequential", "two-stage" (within a warpgroup), "ping-pong" (between warpgroups), or "both".
    """
    groups = range(1, warpgroups + 1)
    if kind == "sequential":
        return [(label, w, j) for w in groups for j in range(tiles) for label in UNIT]
    if kind == "two-stage":
        return [work for w in groups for j in range(tiles + 1) for work in turn(w, j, tiles, ("S", "PV", "softmax"))]
    if kind == "ping-pong":
        return [work for j in range(tiles + 1) for w in groups for work in turn(w, j, tiles, ("PV", "S", "softmax"))]
    if kind == "both":
        return [work for j in range(tiles + 1) for w in groups for work in turn(w, j, tiles, ("S", "PV", "softmax"))]
    raise MiniLLMError(f"pipeline: a schedule is 'sequential', 'two-stage', 'ping-pong' or 'both', found {kind!r}.")


def turn(w: int, j: int, tiles: int, labels: Sequence[str]) -> list[Step]:  # -> [(label, warpgroup, tile)]
    """List one turn of warpgroup w: S and softmax of tile j, PV of tile j - 1, where there are such tiles."""
    work = [(label, w, j - 1 if label == "PV" else j) for label in labels]
    return [(label, w, tile) for label, w, tile in work if 0 <= tile < tiles]


def waits_for(label: str, w: int, j: int) -> Step:  # -> (label, warpgroup, tile)
    """Find the piece of work that must end before this one can start; for S of tile 0 there is none.

    The rest follows from the tensor cores working in order: PV of tile j - 1 has been added before PV of tile j is, and S
    of tile j overwrites no P that is still to be read: PV of tile j - 1, or with two stages j - 2, was asked for earlier.
    """
    return {"S": ("softmax", w, j - 1), "softmax": ("S", w, j), "PV": ("softmax", w, j)}[label]


def schedule(kind: str, tiles: int, costs: dict[str, float], warpgroups: int = 2) -> list[Task]:
    """Start every piece of work, in order, as soon as its unit is free and what it waits for is over.

    tiles: of K and V; costs: {"S": time, "softmax": time, "PV": time}; warpgroups: each with rows of its own. Raises
    MiniLLMError for an unknown kind, no tiles, or a cost that is not positive.
    """
    if tiles < 1 or warpgroups < 1 or not all(costs[label] > 0 for label in UNIT):
        raise MiniLLMError(f"pipeline: tiles, warpgroups and costs are positive, found {tiles}, {warpgroups} and {costs}.")
    free, steps = dict.fromkeys((TENSOR, EXP), 0.0), []
    over: dict[Step, float] = {}
    for label, w, j in order(kind, tiles, warpgroups):
        unit = UNIT[label]
        start = max(free[unit], over.get(waits_for(label, w, j), 0))
        end = over[label, w, j] = free[unit] = start + costs[label]
        steps.append(Task(unit, start, end, label, w, j))
    return steps


def total(steps: Iterable[Task]) -> float:  # [Task] -> time
    """Find when the last piece of work ends."""
    return max(step.end for step in steps)


def bound(tiles: int, costs: Mapping[str, float], warpgroups: int = 2) -> float:  # -> time
    """Compute the lower bound of all schedules: all products, or all softmaxes, whichever is more."""
    return tiles * warpgroups * max(costs["S"] + costs["PV"], costs["softmax"])


def totals(tiles: int, costs: dict[str, float], warpgroups: int = 2) -> dict[str, float]:  # -> {kind: time, "bound": time}
    """Compute the time of each kind of schedule, and the bound."""
    times = {kind: total(schedule(kind, tiles, costs, warpgroups)) for kind in KINDS}
    return times | {"bound": bound(tiles, costs, warpgroups)}


def gantt(steps: list[Task], width: int = 100) -> str:
    """Draw the schedule as text: a row per unit and warpgroup. S: Q Kᵀ, e: exponentials, P: P V; with the tile's last digit."""
    scale = width / total(steps)
    rows = {(unit, w): ["·"] * width for unit in UNIT.values() for w in sorted({step.warpgroup for step in steps})}
    for step in steps:
        a, b = round(step.start * scale), round(step.end * scale)
        text = f"{'e' if step.label == 'softmax' else step.label[0]}{step.tile % 10}"
        rows[step.unit, step.warpgroup][a:b] = f"{text[: b - a]:─<{b - a}}"
    return "\n".join(f"{unit:>12}, warpgroup {w} │{''.join(row)}│" for (unit, w), row in rows.items())
