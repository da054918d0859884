"""The picture of a training run: loss over steps, beside the loss of a model that knows nothing.

A model that gives each of V tokens the same probability has a loss of ln V: the dashed line, drawn before training.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from minillm import plots
from minillm.errors import TrainingError
from minillm.files import replacing
from minillm.training.loop import StepStats

MARKS = 40  # points on a curve; a thousand would be a smear


def picture(steps: Sequence[StepStats], vocab_size: int, path: str | Path) -> None:
    """Draw the curve of a run as PNG."""
    fig, (axes,) = plots.figure()
    plots.ceiling(axes, math.log(vocab_size), f"every token as likely: ln {vocab_size:,} = {math.log(vocab_size):.2f}")
    seen = thin(steps)
    plots.series(axes, 0, [s.step for s in seen], [s.loss for s in seen], "training")
    if judged := [s for s in steps if s.held_out_loss is not None]:
        judged = [judged[i] for i in range(0, len(judged), max(1, len(judged) // MARKS))]
        plots.series(axes, 1, [s.step for s in judged], [s.held_out_loss or 0.0 for s in judged], "held out")
    title = f"Loss falls from {steps[0].loss:.2f} to {steps[-1].loss:.2f} in {steps[-1].step:,} steps"
    plots.label(axes, title, "step", "loss (nats a token)")
    axes.legend(loc="lower left", frameon=False)
    axes.set_ylim(bottom=0)
    with replacing(path, TrainingError) as file:
        plots.save(fig, file)


def thin(  # [StepStats] -> at most MARKS + 1 of them, the first and the last among them
    steps: Sequence[StepStats]
) -> Sequence[StepStats]:
    every = max(1, math.ceil(len(steps) / MARKS))
    return [*steps[:-1:every], steps[-1]]
