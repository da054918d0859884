"""The training loop: batch, loss, gradients, clip, step; and what keeps a night's work from being lost.

    for each step:   for each micro-batch: loss, gradients      mean over all of them
                     not finite? stop, say where; the last checkpoint stays
                     clip ─▶ learning rate ─▶ AdamW ─▶ watch ─▶ checkpoint

A batch that does not fit in memory goes through in m micro-batches whose gradients are added: the same step, in m pieces.
The model comes in as functions, so that the loop trains whatever can say its loss and its gradients.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.backends.blas import libraries
from minillm.errors import TrainingError
from minillm.training import checkpoint
from minillm.training.checkpoint import State
from minillm.training.cross_entropy import IGNORE
from minillm.training.data import Batches
from minillm.training.optimizer import adamw, clip
from minillm.training.schedule import learning_rate

PLACES = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True, slots=True)
class StepStats:
    """The figures of one step: mean loss in nats a token, held-out loss where it was evaluated, gradient norm before clipping."""

    step: int
    loss: float
    held_out_loss: float | None
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float


def fit(
    config: Any, state: State, batches: Batches, loss_and_gradients: Callable,
    evaluate: Callable[[dict[str, Array]], float] | None = None, path: str | Path | None = None,
    decisive: dict[str, Any] | None = None, watch: Callable[[StepStats], Any] = lambda step: None
) -> State:
    """Train from state.step to the last step of config.run; change `state` in place and give it back.

    state:              checkpoint.State; batches: data.Batches, taken to where the state says.
    loss_and_gradients: (parameters, tokens, targets) -> loss, {name: gradient}; the mean over targets that are not -1.
    evaluate:           parameters -> held-out loss, asked every config.run.evaluate_every steps and after the last.
    path:               where the checkpoint goes, every config.run.checkpoint_every steps and after the last; None: nowhere.
    decisive:           the configuration that the checkpoint carries.
    watch:              told of each StepStats, before the checkpoint of that step is written.
    Errors: TrainingError at a loss or a gradient that is not finite. The checkpoint on disk is never of a step after it.
    """
    run, settings = config.run, {k: getattr(config.optimizer, k) for k in ("beta1", "beta2", "epsilon", "weight_decay")}
    batches.restore(state.batches)
    saved = state.step or None
    while state.step < run.steps:
        libraries().fit()  # sums may differ in the last bit with the number of threads; one thread (--threads 1) is one order
        step, begin = state.step + 1, time.perf_counter()
        loss, gradients, tokens = accumulate(state.parameters, batches, run.micro_batches, loss_and_gradients)
        norm = clip(gradients, config.optimizer.clip)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            kept = f"the checkpoint of step {saved:,} is kept" if saved and path else "there is no checkpoint yet"
            raise TrainingError(f"step {step:,}: {not_finite(loss, gradients)}. Training stops; {kept}.")
        rate = rate_of(config, step)
        adamw(state.parameters, gradients, state.first, state.second, step, rate, **settings)
        state.step, state.batches = step, batches.state
        seconds, last = time.perf_counter() - begin, step == run.steps
        asked = last or step % run.evaluate_every == 0
        watch(StepStats(step, loss, evaluate(state.parameters) if evaluate and asked else None, rate, norm, tokens, seconds))
        if path and (last or step % run.checkpoint_every == 0):
            checkpoint.save(path, state, decisive or {})
            saved = step
    return state


def rate_of(config: Any, step: int) -> float:
    """Compute the learning rate of a step of this run."""
    o = config.optimizer
    return learning_rate(step, peak=o.learning_rate, floor=o.floor, warmup=o.warmup, steps=config.run.steps)


def accumulate(  # -> loss, {name: gradient}, tokens
    parameters: dict[str, Array], batches: Batches, count: int, loss_and_gradients: Callable
) -> tuple[float, dict[str, Array], int]:
    """Compute the mean loss and its gradients over `count` batches, as one batch of them all would give (gradient accumulation).

    Each weighs as many targets as it has, so that a batch with gaps (-1) counts less.
    """
    total, counted, tokens = 0.0, 0, 0
    gradients: dict[str, Array] = {}
    for _ in range(count):
        inputs, targets = batches.draw()
        loss, fresh = loss_and_gradients(parameters, inputs, targets)
        n = int(np.count_nonzero(targets != IGNORE))
        total, counted, tokens = total + n * float(loss), counted + n, tokens + inputs.size
        for name, gradient in fresh.items():
            if count == 1:
                gradients[name] = gradient
            elif name in gradients:
                gradients[name] += gradient * gradient.dtype.type(n)
            else:
                gradients[name] = gradient * gradient.dtype.type(n)
    if count > 1:
        for gradient in gradients.values():
            gradient /= max(counted, 1)
    return (float(loss) if count == 1 else total / max(counted, 1)), gradients, tokens


def not_finite(loss: float, gradients: dict[str, Array]) -> str:
    """Find the first failure: the gradient nearest to the loss that is not finite, for the others follow from it."""
    wrong = {name: int(np.count_nonzero(~np.isfinite(g))) for name, g in gradients.items()}
    wrong = {name: count for name, count in wrong.items() if count}
    told = f"the loss is {loss}"
    if not wrong:
        return f"{told}, all {len(gradients)} gradients are finite"
    first = max(wrong, key=place)
    where = np.argwhere(~np.isfinite(gradients[first]))[0].tolist()
    return (
        f"{told}, and {len(wrong)} of {len(gradients)} gradients are not finite; the first on the way back is that of {first}, "
        f"in {wrong[first]:,} of {gradients[first].size:,} values, at {where}"
    )


def place(name: str) -> tuple:  # GGUF's name of a tensor -> how far along the forward pass it is used
    """Sort key: backward runs from the last layer to the first. A tied embedding, used at both ends, is done at the first."""
    parts = name.split(".")
    if parts[0] == "blk":
        return (1, int(parts[1]), PLACES.index(parts[2]) if parts[2] in PLACES else 0)
    return ({"token_embd": 0, "output_norm": 2, "output": 3}.get(parts[0], 0), 0, 0)
