"""Figures of long measurements, kept as JSON beside the lessons that quote them: nobody types one.

    {model: the object that a benchmark printed with --json, whose "rows" several runs may have made}

A run may be cut into several, by bits or by size, as long as rows that are compared are made together: rows of one model are
joined, if both runs measured the same, and a row that was there is replaced. data/results/ has a script for each benchmark.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minillm.files import replacing

DIGITS = 6  # significant


def shortened(value: Any) -> Any:
    """Round floats to what the errors leave of them."""
    if isinstance(value, dict):
        return {key: shortened(v) for key, v in value.items()}
    if isinstance(value, list):
        return [shortened(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def joined(
    kept: dict[str, Any], result: dict[str, Any], same: Sequence[str], lists: dict[str, tuple[str, ...]], file: str
) -> dict[str, Any]:
    """Put a run's lists of rows to those of its model; give the models with it.

    same: keys that must agree. lists: {a list of rows: the keys that name a row}. Objects in both are joined, too.
    SystemExit where it was another measurement, which names the file.
    """
    name, result = result["model"], shortened(result)
    known = kept.get(name)
    if known is None:
        return kept | {name: result}
    if wrong := [key for key in same if known[key] != result[key]]:
        was, now = (which[wrong[0]] for which in (known, result))
        sys.exit(f"{name}: {wrong[0]} was {was}, now {now}: another measurement; remove the old one from {file}")
    both = dict(known)
    for key, value in result.items():
        if key in lists:
            rows = {tuple(row[part] for part in lists[key]): row for row in [*known[key], *value]}
            both[key] = list(rows.values())
        elif isinstance(value, dict):
            both[key] = known[key] | value
    return kept | {name: both}


def take_in(
    path: Path, about: str, same: Sequence[str], lists: dict[str, tuple[str, ...]], argv: Sequence[str] | None = None
) -> None:
    """Read the objects whose files the command line names, and join them with what is kept at `path`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what the command printed with --json")
    kept = json.loads(path.read_text()) if path.exists() else {}
    for file in parser.parse_args(argv).files:
        kept = joined(kept, json.loads(file.read_text()), same, lists, path.name)
    with replacing(path) as out:
        out.write((json.dumps(kept, indent=1) + "\n").encode())
