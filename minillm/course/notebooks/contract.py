"""What must hold of a built notebook, and how two builds of one compare. Plain dictionaries; no Jupyter is needed.

A notebook in the repository is a promise: it was built from the source beside it, every cell ran, nothing failed or warned,
and nothing in it tells about the machine it ran on. Two builds are equal, except for the outputs of cells that measure.

It shows the time to the first token and the throughput of its technique. The pictures are in the lesson too, where the builder
puts them, and the lesson quotes figures by their name (figures.py): a test compares both with the notebook.
"""

import base64
import hashlib
import re
from typing import NamedTuple

from minillm.errors import MiniLLMError

TIMING, SKIP, DRAWING = "timing", "skip-execution", "drawing"
MOST_FIGURES = 5
BOTH = {"the time to the first token": re.compile("TTFT|first token"), "throughput": re.compile("throughput|pace|tokens/s")}
MACHINE = re.compile(r"(?<![\w./])/(?:home|root|tmp|work|Users|usr)/\w[^\s'\"]*|[A-Z]:\\\w[^\s'\"]*")
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")


class NotebookError(MiniLLMError):
    """A notebook that cannot be built."""


def source_hash(text):  # source -> hexadecimal
    """SHA-256 of a source, whatever its line ends."""
    return hashlib.sha256("\n".join(text.splitlines()).encode()).hexdigest()


def tags(cell):
    return cell["metadata"].get("tags", [])


def joined(text):  # a file has lists of lines, a notebook in memory texts
    return text if isinstance(text, str) else "".join(text)


def output_texts(output):  # -> texts of one output, pictures left out
    """Collect the texts that a reader sees."""
    yield joined(output.get("text", ""))
    yield from (joined(data) for kind, data in output.get("data", {}).items() if kind.startswith("text/"))


def problems(notebook, source):  # notebook, text of its source -> [text], empty if all is well
    """List the problems of a built notebook."""
    found = []
    if notebook["metadata"].get("minillm", {}).get("source_sha256") != source_hash(source):
        found.append("the source has changed since it was built: minillm course notebooks")
    figures = 0
    for index, cell in enumerate(notebook["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        where = f"cell {index}"
        if SKIP in tags(cell):
            if cell["outputs"] or cell["execution_count"] is not None:
                found.append(f"{where} is tagged {SKIP} and has outputs")
        elif cell["execution_count"] is None:
            found.append(f"{where} was not executed")
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                found.append(f"{where} failed: {output['ename']}: {output['evalue']}")
            if output.get("name") == "stderr":
                found.append(f"{where} wrote to standard error: {joined(output['text']).strip()[:80]}")
            figures += any(kind.startswith("image/") for kind in output.get("data", {}))
            traces = [MACHINE.search(text) or ADDRESS.search(text) for text in output_texts(output)]
            found += [f"{where} shows something of this machine: {match[0][:60]}" for match in traces if match]
    if figures > MOST_FIGURES:
        found.append(f"{figures} figures, at most {MOST_FIGURES}")
    axes = [panel["y"] for picture in pictures(notebook) for panel in picture.panels]
    return found + [f"no picture has {what} on its y axis" for what, name in BOTH.items() if not any(map(name.search, axes))]


class Picture(NamedTuple):
    """A picture of a notebook: its PNG, and title, x and y of each panel."""

    png: bytes
    panels: list[dict[str, str]]


def pictures(notebook):  # -> [Picture], in their order
    """List the pictures that a built notebook shows."""
    outputs = [output for cell in notebook["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    return [
        Picture(base64.b64decode(joined(o["data"]["image/png"])), o["metadata"].get("image/png", {}).get("minillm", []))
        for o in shown
    ]


def differences(ours, theirs):  # two notebooks -> [text], empty if they are equal but for measurements
    """List the differences of two builds: anything but the outputs of cells tagged `timing`."""
    found = []
    if len(ours["cells"]) != len(theirs["cells"]):
        found.append(f"{len(ours['cells'])} cells against {len(theirs['cells'])}")
    for index, (a, b) in enumerate(zip(ours["cells"], theirs["cells"], strict=False), 1):
        a, b = comparable(a), comparable(b)
        for part in sorted(a.keys() | b.keys()):
            if a.get(part) != b.get(part):
                hint = f"; if it measures, tag it {TIMING}" if part == "outputs" else ""
                found.append(f"cell {index} differs in its {part}{hint}")
    rest = ("metadata", "nbformat", "nbformat_minor")
    return found + [f"{part} differs" for part in rest if ours[part] != theirs[part]]


def comparable(cell):  # -> dict, texts joined; without outputs where they may differ
    """Reduce a cell to what two builds must agree on."""
    cell = {**cell, "source": joined(cell["source"])}
    if cell["cell_type"] == "code":
        cell["outputs"] = [] if TIMING in tags(cell) else [plain(output) for output in cell["outputs"]]
    return cell


def plain(output):
    output = dict(output)
    if "text" in output:
        output["text"] = joined(output["text"])
    if "data" in output:
        output["data"] = {kind: joined(d).strip() if not isinstance(d, dict) else d for kind, d in output["data"].items()}
    return output
