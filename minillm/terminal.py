"""What a command shows in a terminal: tables in columns, and progress that is silent when nobody watches."""

import sys
from itertools import zip_longest


def table(head, rows, align="<"):  # [text], [[text]] -> text
    """Lay out columns as wide as their widest cell. A row may end early.

    align: "<" or ">" for each column, from the first; those not named are aligned right, as numbers are.
    """
    align = align.ljust(len(head), ">")
    widths = [max(map(len, column)) for column in zip_longest(head, *rows, fillvalue="")]
    lines = ["  ".join(f"{text:{a}{w}}" for text, a, w in zip(row, align, widths, strict=False)) for row in [head, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def bar(total, unit, done=0, what=None, hidden=False):  # -> tqdm
    """A progress bar on standard error; disabled where that is no terminal. unit "B" counts bytes in powers of ten."""
    from tqdm import tqdm

    words = {"desc": what, "unit": unit if unit == "B" else f" {unit}", "unit_scale": unit == "B"}
    return tqdm(total=total, initial=done, file=sys.stderr, disable=hidden or None, dynamic_ncols=True, **words)


def say(text):
    """Show progress on one line, which the next text replaces; an empty text clears it. Silent where nobody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
