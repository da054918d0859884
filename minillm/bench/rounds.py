"""Measure several ways in turn, round by round: a slow minute of a shared machine then hits all of them.

Ratios are taken within a round, medians or minima over the rounds. Each round begins with another way, so that none is always
the first, on a cool machine, or the one that follows the same other.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from minillm.terminal import say


def in_turn(  # -> {name: [measure(name) of each round]}
    names: Iterable, rounds: int, measure: Callable[[Any], Any], what: str = "", once: Container = ()
) -> dict[Any, list]:
    """Measure each name once a round. once: names that are asked in the first round only. what: for the line of progress."""
    names = list(names)
    found: dict[Any, list] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            if number == 0 or name not in once:
                say(f"{what}round {number + 1} of {rounds}: {name}")
                found[name].append(measure(name))
    return found


def curves(ways: Mapping[str, Callable[[Any], Any]], xs: Sequence, rounds: int = 3) -> dict[str, list[list]]:
    """Measure each way at each x, in turn, after one call of each way that warms it up.

    {name: measure} -> {name: [[measure(x) of each round] for each x]}
    """
    for measure in ways.values():
        measure(xs[0])
    found = in_turn([(name, x) for x in xs for name in ways], rounds, lambda way: ways[way[0]](way[1]))
    return {name: [found[name, x] for x in xs] for name in ways}


def medians(runs: Iterable[Iterable[float]]) -> list[float]:  # [[value of each round]] -> [value]
    """Reduce the rounds of each point of a curve to their median."""
    return [median(values) for values in runs]
