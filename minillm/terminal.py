"""What a command shows in a terminal: tables in columns, notices, and progress that is silent without a terminal."""

import os
import sys
from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


def table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "<") -> str:
    """Lay out columns as wide as their widest cell. A row may end early.

    align: "<" or ">" for each column, from the first; those not named are aligned right, as numbers are.
    """
    align = align.ljust(len(head), ">")
    widths = [max(map(len, column)) for column in zip_longest(head, *rows, fillvalue="")]
    lines = ["  ".join(f"{text:{a}{w}}" for text, a, w in zip(row, align, widths, strict=False)) for row in [head, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def bar(total: int, unit: str, done: int = 0, what: str | None = None, hidden: bool = False) -> "tqdm":
    """Make a progress bar on standard error; disabled where that is no terminal. unit "B" counts bytes in powers of ten."""
    from tqdm import tqdm

    words = {"desc": what, "unit": unit if unit == "B" else f" {unit}", "unit_scale": unit == "B"}
    return tqdm(total=total, initial=done, file=sys.stderr, disable=hidden or None, dynamic_ncols=True, **words)


def say(text: str) -> None:
    """Show progress on one line, which the next text replaces; an empty text clears it. Silent without a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


@cache
def notice(text: str) -> None:
    """Tell something on standard error, once in a process. MINILLM_NOTICE=off silences it."""
    if os.environ.get("MINILLM_NOTICE") != "off":
        print(f"minillm: {text}", file=sys.stderr, flush=True)
