"""A training step to measure, ours and torch's: forward, backward, clipping and AdamW, in float32, from the same file."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from minillm.model.load import load_parameters

SETTINGS: dict[str, Any] = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}
RATE, LARGEST = 1e-4, 1.0


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step, the median of several, and its loss: both engines must agree on it at first."""

    step_s: float
    loss: float


@dataclass
class OurTraining:
    """This project."""

    path: str
    threads: int

    def __post_init__(self) -> None:
        from minillm.training.optimizer import zeros_like

        self.config, self.parameters = load_parameters(self.path)
        self.moments, self.steps = (zeros_like(self.parameters), zeros_like(self.parameters)), 0

    def step(self, tokens: Any, targets: Any) -> float:  # -> loss
        from minillm.training.model import loss_and_gradients
        from minillm.training.optimizer import adamw, clip

        self.steps += 1
        loss, gradients = loss_and_gradients(self.config, self.parameters, tokens, targets)
        clip(gradients, LARGEST)
        adamw(self.parameters, gradients, *self.moments, self.steps, RATE, **SETTINGS)
        return loss

    def run(self, batch: int, length: int, steps: int) -> StepTime:
        return timed(self.step, self.config.vocab_size, batch, length, steps)


@dataclass
class TorchTraining:
    """Hugging Face transformers on torch."""

    path: str
    threads: int

    def __post_init__(self) -> None:
        import torch

        from minillm.bench.peers.models import Transformers

        self.model = Transformers(self.path, self.threads).model.train()
        betas, decay = (SETTINGS["beta1"], SETTINGS["beta2"]), SETTINGS["weight_decay"]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), RATE, betas, SETTINGS["epsilon"], decay)

    def step(self, tokens: Any, targets: Any) -> float:  # -> loss
        import torch

        logits = self.model(torch.from_numpy(tokens), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss)

    def run(self, batch: int, length: int, steps: int) -> StepTime:
        return timed(self.step, self.model.config.vocab_size, batch, length, steps)


def timed(step: Callable, vocab_size: int, batch: int, length: int, steps: int) -> StepTime:
    """Time steps on one batch of random tokens; a first one, not counted, allocates what the others reuse."""
    text = np.random.default_rng(0).integers(0, vocab_size, (batch, length + 1))
    tokens, targets = np.ascontiguousarray(text[:, :-1]), np.ascontiguousarray(text[:, 1:])
    first, seconds = step(tokens, targets), []
    for _ in range(steps):
        began = time.perf_counter()
        step(tokens, targets)
        seconds.append(time.perf_counter() - began)
    return StepTime(median(seconds), float(first))
