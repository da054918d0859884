"""Plots in one style, and the two pictures that every concept shows: TTFT, and throughput under its ceiling.

The title states the finding, the axes carry units, the ceiling is a dashed line with its formula, drawn before the
measurement. Series differ in marker and line as well as in colour, so a plot survives grey printing and colour-blind
eyes. Colours: Okabe and Ito 2008.
"""

import io
import sys
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
        axes.bar_label(bar, fmt=lambda v: f"{v:,.3g} {unit}", padding=2)


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
    """Plot TTFT in ms against x (standard picture 1). curves: {label: (xs, seconds)}; bound: (xs, seconds, formula)."""
    if bound:
        xs, seconds, formula = bound
        axes.plot(xs, [1e3 * s for s in seconds], color="black", linestyle="--", linewidth=1.2, label=formula)
    for i, (name, (xs, seconds)) in enumerate(curves.items()):
        series(axes, i, xs, [1e3 * s for s in seconds], name)
    label(axes, title, x, "TTFT (ms)")
    legend(axes)


def throughput_plot(axes: Any, speeds: Mapping[str, Any], title: str, top: tuple[float, str] | None = None) -> None:
    """Plot tokens/s as bars (standard picture 2). speeds: {label: tokens/s}; top: (tokens/s, formula) of the ceiling."""
    if top:
        ceiling(axes, *top)
    bars(axes, list(speeds), list(speeds.values()), "tokens/s")
    label(axes, title, "", "throughput (tokens/s)")
    axes.set_ylim(0, max([*speeds.values(), top[0] if top else 0]) * 1.18)


def show(fig: Any) -> None:
    """Show a figure below a notebook's cell, as the same PNG for every reader; in a plain script, nothing happens."""
    if "ipykernel" in sys.modules:
        from IPython.display import Image, display

        save(fig, png := io.BytesIO())
        display(Image(png.getvalue(), format="png"))


def save(fig: Any, path: Any) -> None:
    """Write a PNG, to a path or a file, without a date in it, so that equal pictures are equal bytes."""
    fig.savefig(path, format="png", metadata={"Software": None})
