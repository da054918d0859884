"""A picture of a GGUF file: where its bytes lie, for what, at how many bits per weight; and what comes before the data.

Left, the file as a text is read: row after row, each a stretch of the same size. What a tensor is for is told by colour and
hatch, how wide its weights are by the grey of the band below: white at 0 bits, black at 32. Right, what comes before the data,
key by key.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.patches import Patch, Rectangle

from minillm import plots
from minillm.files import replacing
from minillm.formats.expect import excerpt
from minillm.formats.gguf import GGUFFile
from minillm.formats.gguf_layout import OTHER, Section, bytes_by_role, role_of, sections

ROWS, FINEST = 16, 1000  # rows of the map; of a row, the finest stretch that is drawn
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
    width = max(1, -(-gguf.nbytes // ROWS))
    before, seen = start_of_parts(gguf), set[str]()
    for kind, grey, begin, end in merged(sections(gguf), before, width / FINEST):
        seen.add(kind)
        i = KINDS.index(kind)
        for row in range(int(begin // width), int(-(-end // width))):
            x, stop = max(begin, row * width), min(end, (row + 1) * width)
            at, share = (x - row * width) / width, (stop - x) / width
            axes.add_patch(Rectangle((at, row), share, 0.55, **look(i), linewidth=0.3))
            axes.add_patch(Rectangle((at, row + 0.55), share, 0.28, facecolor=str(grey), linewidth=0))
    axes.set(xlim=(0, 1), ylim=(ROWS, 0), xticks=[0, 0.5, 1], xticklabels=["0", f"{size(width / 2)}", f"{size(width)}"])
    axes.set_yticks([0, ROWS], ["0", size(gguf.nbytes)])
    axes.grid(False)
    shown = [(Patch(**look(i)), kind) for i, kind in enumerate(KINDS) if kind in seen]
    types = sorted({(t.bits_per_weight, t.type.name) for t in gguf.tensors.values()})[:MOST_TYPES]
    shown += [(Patch(facecolor=str(grey_of(bits)), edgecolor="black"), f"{name}: {bits:.4g} bits") for bits, name in types]
    axes.legend(*zip(*shown, strict=True), loc="upper left", bbox_to_anchor=(0, -0.14), ncols=4, fontsize=8, frameon=False)
    plots.label(axes, title_of_map(gguf), f"along a row of {size(width)}", "place in the file")


def look(i: int) -> dict[str, Any]:  # number of a kind -> how it is filled
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


def merged(  # -> [(kind, grey, begin, end)] in bytes of all parts, neighbours of one kind and width together
    found: Sequence[Section], before: Sequence[int], finest: float
) -> list[tuple[str, float, int, int]]:
    """Join what looks the same; what is too narrow to be seen goes with what comes before it. So a hostile file has few."""
    out: list[tuple[str, float, int, int]] = []
    for section in found:
        begin, end = before[section.part] + section.begin, before[section.part] + section.end
        kind, grey = (role_of(section.name), grey_of(section.tensor.bits_per_weight)) if section.tensor else (HEAD, 1.0)
        if out and (out[-1][:2] == (kind, grey) or section.kind == "padding" or end - begin < finest):
            out[-1] = (*out[-1][:3], end)
        else:
            out.append((kind, grey, begin, end))
    return out


def grey_of(bits: float) -> float:  # of a weight -> 1, white, to 0, black
    return 1 - min(bits, WIDEST) / WIDEST


def size(nbytes: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes:.0f} bytes"
