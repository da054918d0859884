"""Figures that a lesson quotes: the notebook names them, the lesson refers to the name, and a command keeps both the same.

    in the notebook     print(f"{quote('saved', f'{saved:.0f}')} times fewer FLOPs")
    in the lesson       [35](../notebooks/02_kv_cache.ipynb "figure: saved") times fewer FLOPs

A reader sees a number that leads to where it was measured; nobody copies one by hand.

    minillm course figures              write the notebooks' figures into the lessons
    minillm course figures --check      only say which differ
"""

import json
import re
from pathlib import Path

from minillm.course.notebooks.contract import NotebookError
from minillm.errors import did_you_mean
from minillm.files import write_text

KIND = "application/vnd.minillm.figure+json"
LESSONS = Path(__file__).parents[3] / "lessons"
QUOTED = re.compile(r"\[(?P<text>[^\[\]]*)\]\(\.\./notebooks/(?P<notebook>\d\d_\w+)\.ipynb \"figure: (?P<name>[^\"]+)\"\)")


def quote(name, text):  # name within the notebook, what the lesson shall say -> the text
    """Keep a figure under a name, in the notebook; a plain script keeps nothing."""
    import sys

    if "ipykernel" in sys.modules:
        from IPython.display import display

        display({KIND: {"name": name, "text": str(text)}}, raw=True)
    return str(text)


def figures(notebook):  # a built notebook -> {name: text}
    """Collect what a notebook keeps for its lesson. NotebookError for a name that is used twice."""
    found = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if kept := output.get("data", {}).get(KIND):
                if kept["name"] in found:
                    raise NotebookError(f"two figures are called {kept['name']!r}.")
                found[kept["name"]] = kept["text"]
    return found


def with_figures(text, notebooks):  # text of a lesson, {notebook: {name: text}} -> text
    """Write the figures of notebooks where a lesson quotes them. NotebookError for one that there is not."""

    def kept(match):
        known = notebooks.get(match["notebook"])
        if known is None:
            raise NotebookError(f"no notebook {match['notebook']!r}; {did_you_mean(match['notebook'], notebooks)}")
        if match["name"] not in known:
            raise NotebookError(f"{match['notebook']} keeps no figure {match['name']!r}; {did_you_mean(match['name'], known)}")
        return match[0].replace(f"[{match['text']}]", f"[{known[match['name']]}]", 1)

    return QUOTED.sub(kept, text)


def configure(parser):
    parser.add_argument("--check", action="store_true", help="write nothing; name the lessons that differ")


def run(args, lessons=LESSONS):  # -> exit status
    """Bring the figures of all lessons up to date, or say which lessons differ."""
    paths = sorted((lessons.parent / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    notebooks = {path.stem: figures(json.loads(path.read_text(encoding="utf-8"))) for path in paths}
    stale = []
    for path in sorted(lessons.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (new := with_figures(text, notebooks)) != text:
            stale.append(path.name)
            if not args.check:
                write_text(path, new)
    print(f"{'differ' if args.check else 'written'}: {', '.join(stale)}" if stale else "all figures are the notebooks'")
    return int(bool(stale) and args.check)
