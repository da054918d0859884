"""Plots in one style, and the two pictures that every concept shows: TTFT, and throughput under its ceiling.

The title states the finding, the axes carry units, the ceiling is a dashed line with its formula, drawn before the
measurement. Series differ in marker and line as well as in colour, so a plot survives grey printing and colour-blind
eyes. Colours: Okabe and Ito 2008.

A picture can be wrong in two ways that code can see: a point beyond its bound, and a title that its data refute. Both raise
`FalsePicture` while a notebook is built (MINILLM_PLOTS=strict), and warn elsewhere: a busy machine must not stop a reader. A
finding about counts, which are the same everywhere, raises everywhere.
"""

import io
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.dpi": 80,
}


BEYOND = 1.05  # of a bound: as far as a measured point may lie beyond it, since the bound is measured too


class FalsePicture(AssertionError):
    """A picture says what its data do not."""


def finding(title: str, holds: bool, counted: bool = False) -> str:
    """Give back a title that states a finding, once the data agree. counted: it is about counts, not about times."""
    if not holds:
        complain(f"the data refute this title: {title!r}", counted)
    return title


def complain(what: str, always: bool = False) -> None:
    """Raise, or warn a reader whose machine measured otherwise."""
    how = os.environ.get("MINILLM_PLOTS", "warn")
    if always or how == "strict":
        raise FalsePicture(what)
    if how != "quiet":
        warnings.warn(what, stacklevel=3)


def check_ceiling(name: str, values: Sequence[float], most: Sequence[float]) -> None:
    """Complain where a measured value lies above what is possible there, such as tokens/s over bandwidth / bytes."""
    for value, top in zip(values, most, strict=True):
        if value > BEYOND * top:
            complain(f"{name}: {value:,.4g} lies over its ceiling of {top:,.4g}")


def check_floor(name: str, values: Sequence[float], least: Sequence[float]) -> None:
    """Complain where a measured time lies below what it must take at least."""
    for value, floor in zip(values, least, strict=True):
        if value * BEYOND < floor:
            complain(f"{name}: {value:,.4g} lies under its floor of {floor:,.4g}")


def figure(panels: int = 1, width: float = 6.4, height: float = 4.0) -> tuple[Any, list[Any]]:  # -> Figure, [Axes]
    """Make a figure with panels side by side; no global state, no window."""
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(width * panels, height), layout="constrained", dpi=STYLE["figure.dpi"])
        return fig, [fig.add_subplot(1, panels, i + 1) for i in range(panels)]


def series(axes: Any, index: int, x: Sequence[float], y: Sequence[float], label: str) -> None:
    """Plot a measured series, told apart by colour, marker and line."""
    i = index % len(COLOURS)
    axes.plot(x, y, color=COLOURS[i], marker=MARKERS[i], linestyle=LINES[i], label=label, markersize=5, linewidth=1.6)


def bars(axes: Any, names: Sequence[str], values: Sequence[float], unit: str) -> None:
    """Plot one bar a name, its value written on it."""
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        bar = axes.bar(name, value, color=colour, hatch=HATCHES[i % len(HATCHES)], edgecolor="white", width=0.6)
        axes.bar_label(bar, fmt=lambda v: f"{v:,.0f} {unit}" if abs(v) >= 100 else f"{v:.3g} {unit}", padding=2)


def square(x: float, y: float, grey: str) -> Any:
    """Draw a unit square of a grid, from black (0) to white (1)."""
    return Rectangle((x, y), 1, 1, facecolor=str(grey), edgecolor="white")


def ceiling(axes: Any, value: float, formula: str) -> None:
    """Draw the bound of the machine: a dashed line, labelled with its formula."""
    axes.axhline(value, color="black", linestyle="--", linewidth=1.2)
    where = {"xycoords": ("axes fraction", "data"), "xytext": (0, 3), "textcoords": "offset points"}
    axes.annotate(formula, (0.02, value), fontsize=9, **where)
    axes.set_ylim(top=max(axes.get_ylim()[1], value * 1.15))


def log_scales(axes: Any, xs: Sequence[float]) -> None:
    """Make both axes logarithmic, with a tick at each measured x."""
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(xs, [f"{x:,}" for x in xs])
    axes.minorticks_off()


def log_heights(axes: Any, ticks: Sequence[float], low: float | None = None, high: float | None = None) -> None:
    """Make the y axis logarithmic, from low to high, with a label at each of these ticks and nowhere else."""
    axes.set_yscale("log")
    if low is not None or high is not None:
        axes.set_ylim(low, high)
    axes.set_yticks(ticks, [f"{y:,g}" for y in ticks])
    axes.minorticks_off()


def spread(axes: Any, xs: Sequence[float], runs: Sequence[Sequence[float]], scale: float = 1, shade: int | None = None) -> None:
    """Mark at each x the range of its runs, from the lowest to the highest, times scale.

    A black stroke; or, with the number of a series, a shade in its colour, for curves of many points.
    """
    low, high = ([scale * end(values) for values in runs] for end in (min, max))
    if shade is None:
        axes.vlines(xs, low, high, color="black", linewidth=1.5, zorder=4)
    else:
        axes.fill_between(xs, low, high, color=COLOURS[shade % len(COLOURS)], alpha=0.2, linewidth=0)


def spread_bars(axes: Any, runs: Sequence[Sequence[float]], scale: float = 1) -> None:
    """Mark the range of the runs of each bar, beside the value that is written on it."""
    spread(axes, [i + 0.2 for i in range(len(runs))], runs, scale)  # bars with names stand at 0, 1, 2 …


def label(axes: Any, title: str, x: str, y: str) -> None:
    """Set title and axes; the units belong into x and y."""
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def legend(axes: Any) -> None:
    """Add a legend: y from zero, with room above the highest point so that it covers nothing."""
    axes.set_ylim(0, axes.dataLim.y1 * 1.35)
    axes.legend(loc="upper left", frameon=False)


def ttft_plot(axes: Any, curves: Mapping[str, Any], title: str, x: str = "prompt length (tokens)", bound: Any = None) -> None:
    """Plot TTFT in ms against x (standard picture 1). curves: {label: (xs, seconds)}; bound: (xs, seconds, formula), a floor."""
    if bound:
        xs, seconds, formula = bound
        axes.plot(xs, [1e3 * s for s in seconds], color="black", linestyle="--", linewidth=1.2, label=formula)
        floor = dict(zip(xs, seconds, strict=True))
        for name, (at, measured) in curves.items():
            check_floor(name, [t for x, t in zip(at, measured, strict=True) if x in floor], [floor[x] for x in at if x in floor])
    for i, (name, (xs, seconds)) in enumerate(curves.items()):
        series(axes, i, xs, [1e3 * s for s in seconds], name)
    label(axes, title, x, "TTFT (ms)")
    legend(axes)


def throughput_plot(axes: Any, speeds: Mapping[str, Any], title: str, top: tuple[float, str] | None = None) -> None:
    """Plot tokens/s as bars (standard picture 2). speeds: {label: tokens/s}; top: (tokens/s, formula) of the ceiling."""
    if top:
        ceiling(axes, *top)
        check_ceiling(title, list(speeds.values()), [top[0]] * len(speeds))
    bars(axes, list(speeds), list(speeds.values()), "tokens/s")
    label(axes, title, "", "throughput (tokens/s)")
    axes.set_ylim(0, max([*speeds.values(), top[0] if top else 0]) * 1.18)


def show(fig: Any) -> None:
    """Show a figure below a notebook's cell, as the same PNG for every reader; in a plain script, nothing happens."""
    if "ipykernel" in sys.modules:
        from IPython.display import Image, display

        save(fig, png := io.BytesIO())
        display(Image(png.getvalue(), format="png", metadata={"minillm": described(fig)}))


def described(fig: Any) -> list[dict[str, str]]:  # -> [{"title", "x", "y"}], one for each panel
    """Say what a figure shows, for those who do not see it and for tests."""
    panels = [{"title": a.get_title(loc="left") or a.get_title(), "x": a.get_xlabel(), "y": a.get_ylabel()} for a in fig.axes]
    return [panel for panel in panels if panel["title"]]


def save(fig: Any, path: Any) -> None:
    """Write a PNG, to a path or a file, without a date in it, so that equal pictures are equal bytes."""
    fig.savefig(path, format="png", metadata={"Software": None})
