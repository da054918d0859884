"""A picture of a GGUF file: where its bytes lie, for what, at how many bits per weight; and what comes before the data.

Left, the file as a text is read: row after row, each a stretch of the same size. What a tensor is for is told by colour and
hatch, how wide its weights are by the grey of the band below: white at 0 bits, black at 32. Right, what comes before the data,
key by key.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.patches import Patch

from minillm import plots
from minillm.files import replacing
from minillm.formats.expect import excerpt
from minillm.formats.gguf import GGUFFile
from minillm.formats.gguf_layout import OTHER, bytes_by_role, role_of, sections

ROWS, FINEST = 16, 240  # rows of the map, cells of a row; so a hostile file is drawn soon
CELLS = ROWS * FINEST
KEYS, MOST_TYPES = 8, 8  # bars at the right; types in the legend
HEAD = "before the data"
KINDS = [HEAD, "embedding", "attention", "feed-forward", "norms", "head", OTHER]
WIDEST = 32  # bits: black


def draw(gguf: GGUFFile, path: str | Path) -> None:
    """Write the picture of a file as a PNG. Names in it are untrusted: they are cut, and lose what is no letter or sign."""
    fig, (left, right) = plots.figure(2, width=6.4, height=4.6)
    draw_map(left, gguf)
    draw_head(right, gguf)
    with replacing(path) as file:
        plots.save(fig, file)


def draw_map(axes: Any, gguf: GGUFFile) -> None:
    width = gguf.nbytes / ROWS
    found = cells(gguf, width / FINEST)
    for row in range(ROWS):
        kinds, greys = zip(*found[row * FINEST : (row + 1) * FINEST], strict=True)
        for kind, stretches in stretches_of(kinds).items():
            axes.broken_barh(stretches, (row, 0.55), **look(kind), linewidth=0.3)
        for grey, stretches in stretches_of(greys).items():
            axes.broken_barh(stretches, (row + 0.55, 0.28), facecolor=str(grey), linewidth=0)
    axes.set(xlim=(0, 1), ylim=(ROWS, 0), xticks=[0, 0.5, 1], xticklabels=["0", f"{size(width / 2)}", f"{size(width)}"])
    axes.set_yticks([0, ROWS], ["0", size(gguf.nbytes)])
    axes.grid(False)
    shown = [(Patch(**look(kind)), kind) for kind in KINDS if any(kind == k for k, _ in found)]
    types = sorted({(t.bits_per_weight, t.type.name) for t in gguf.tensors.values()})[:MOST_TYPES]
    shown += [(Patch(facecolor=str(grey_of(bits)), edgecolor="black"), f"{name}: {bits:.4g} bits") for bits, name in types]
    axes.legend(*zip(*shown, strict=True), loc="upper left", bbox_to_anchor=(0, -0.14), ncols=4, fontsize=8, frameon=False)
    plots.label(axes, title_of_map(gguf), f"along a row of {size(width)}", "place in the file")


def stretches_of(row: Sequence[Any]) -> dict[Any, list[tuple[float, float]]]:  # what each cell is -> {what: [(begin, width)]}
    """Join cells that are alike. Begins and widths are shares of the row."""
    found: dict[Any, list[tuple[float, float]]] = {}
    at = 0
    for what, run in groupby(row):
        count = len(list(run))
        found.setdefault(what, []).append((at / FINEST, count / FINEST))
        at += count
    return found


def look(kind: str) -> dict[str, Any]:  # how it is filled
    i = KINDS.index(kind)
    return {"facecolor": plots.COLOURS[i], "hatch": plots.HATCHES[i], "edgecolor": "white"}


def title_of_map(gguf: GGUFFile) -> str:
    roles, total = bytes_by_role(gguf), sum(t.nbytes for t in gguf.tensors.values())
    if not roles:
        return plots.finding("There is no tensor in this file", not gguf.tensors, counted=True)
    role, most = next(iter(roles.items()))
    share, rest = most / gguf.nbytes, 1 - total / gguf.nbytes
    title = f"{role.capitalize()} takes {share:.0%} of {size(gguf.nbytes)}; {rest:.1%} is not weights"
    return plots.finding(title, all(most >= n for n in roles.values()) and total <= gguf.nbytes, counted=True)


def draw_head(axes: Any, gguf: GGUFFile) -> None:
    found: dict[str, int] = {}
    for section in sections(gguf):
        if section.kind in ("key", "table"):
            name = excerpt(section.name)[:34] if section.kind == "key" else "(the table of tensors)"
            found[name] = found.get(name, 0) + section.nbytes
    ordered, total = sorted(found.items(), key=lambda item: -item[1]), sum(found.values())
    shown = ordered[:KEYS]
    if ordered[KEYS:]:
        shown.append((f"({len(ordered) - KEYS} smaller ones)", sum(n for _, n in ordered[KEYS:])))
    for i, (name, nbytes) in enumerate(shown):
        axes.barh(i, nbytes, color=plots.COLOURS[5], height=0.7)
        text = f" {name}: {size(nbytes)}".encode("ascii", "replace").decode()  # the font has not every letter
        axes.annotate(text, (0, i), fontsize=8, va="center", color="black").set_parse_math(False)  # $ in a key is no formula
    axes.set(yticks=[], ylim=(len(shown) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(lambda nbytes, _: size(nbytes) if nbytes else "0")
    two = sum(n for _, n in ordered[:2])
    title = f"Two entries are {two / max(1, total):.0%} of the {size(total)} before the data"
    plots.label(axes, plots.finding(title, 0 <= two <= total, counted=True), "bytes", "")


def start_of_parts(gguf: GGUFFile) -> list[int]:
    """Count the bytes of the parts before each."""
    return [sum(part.nbytes for part in gguf.parts[:i]) for i in range(len(gguf.parts))]


def cells(gguf: GGUFFile, width: float) -> list[tuple[str, float]]:  # bytes of a cell -> (kind, grey) of each
    """Give each cell of the map what most of its bytes are. Padding looks like what comes before it."""
    before, look = start_of_parts(gguf), (HEAD, 1.0)
    found = [look] * CELLS
    shared: dict[int, Counter[tuple[str, float]]] = defaultdict(Counter)  # cells that one section does not fill
    for section in sections(gguf):
        begin, end = (before[section.part] + at for at in (section.begin, section.end))
        if section.kind != "padding":
            look = (role_of(section.name), grey_of(section.tensor.bits_per_weight)) if section.tensor else (HEAD, 1.0)
        first, last = int(begin / width), min(int(end / width), CELLS - 1)
        found[first + 1 : last] = [look] * max(0, last - first - 1)
        for cell in {first, last}:
            shared[cell][look] += round(min(end, (cell + 1) * width) - max(begin, cell * width))
    for cell, looks in shared.items():
        found[min(cell, CELLS - 1)] = looks.most_common(1)[0][0]
    return found


def grey_of(bits: float) -> float:  # of a weight -> 1, white, to 0, black
    return 1 - min(bits, WIDEST) / WIDEST


def size(nbytes: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes:.0f} bytes"
