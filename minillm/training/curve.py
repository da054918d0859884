"""The loss curve on disk while it grows, and in a line of the terminal: one row a step.

A run that is taken up again has perhaps gone further before it was killed: rows after the checkpoint's step are cut off, and
come again. A last row that is cut short goes with them.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from minillm.errors import TrainingError
from minillm.files import replacing
from minillm.training.loop import StepStats

COLUMNS = [f.name for f in fields(StepStats)]


def read_curve(path: str | Path) -> list[StepStats]:
    """Read the rows of a curve, up to the first that is not whole; none where there is no file."""
    rows: list[StepStats] = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return rows
    whole = text[: text.rfind("\n") + 1]  # a row is whole once its line has ended
    for row in csv.DictReader(io.StringIO(whole)):
        try:
            values: dict[str, Any] = {name: (None if row[name] == "" else float(row[name])) for name in COLUMNS}
            rows.append(StepStats(**values | {"step": int(row["step"]), "tokens": int(row["tokens"])}))
        except (KeyError, TypeError, ValueError):
            break
    return rows


class Curve:
    """A CSV file that gets a row a step. after: the step of the checkpoint that the run continues; 0 starts afresh."""

    def __init__(self, path: str | Path, after: int = 0) -> None:
        kept = [step for step in read_curve(path) if step.step <= after]
        with replacing(path, TrainingError) as file:
            file.write(lines(kept, header=True).encode())
        self.file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115

    def __enter__(self) -> "Curve":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, step: StepStats) -> None:
        """Write a row, on disk before the next step begins."""
        try:
            self.file.write(lines([step]))
            self.file.flush()
        except OSError as error:
            raise TrainingError(f"step {step.step:,}: the loss curve could not be written ({error}).") from error


def lines(steps: Sequence[StepStats], header: bool = False) -> str:
    """Format rows of CSV; an empty cell where nothing was measured."""
    sheet = csv.DictWriter(text := io.StringIO(), COLUMNS, lineterminator="\n")
    if header:
        sheet.writeheader()
    sheet.writerows(asdict(step) for step in steps)
    return text.getvalue()


def pace(step: StepStats, flops: float, peak: float) -> str:  # StepStats, FLOPs of a step, FLOPs/s of the machine -> one line
    """Format loss, speed, and the share of the machine's peak."""
    told = f"loss {step.loss:.3f} · {step.tokens / step.seconds:,.0f} tokens/s · {flops / step.seconds / peak:.0%} of peak"
    return told if step.held_out_loss is None else f"{told} · held out {step.held_out_loss:.3f}"


def row(step: StepStats, steps: int, told: str, seconds: float) -> str:  # StepStats, int, str, float -> a line of a log
    """Format the progress of a run and its remaining time. seconds: of each of the steps before, on average."""
    from tqdm import tqdm

    left = tqdm.format_interval(seconds * (steps - step.step))
    return f"step {step.step:,} of {steps:,} · {told} · {left} left"
