"""`minillm bench training`: a training step of a model, ours and torch's in turn in one run, under the machine's ceiling.

A step is forward, backward, clipping and AdamW, in float32, on the same batch of random tokens; the weights come from the same
file. Each engine has a process of its own (worker.py). The share of peak counts the mathematics alone (model FLOPs utilization:
forward, and twice that backward) over the speed of a large matrix product. Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
"""

import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from minillm.bench.machine import measure_machine
from minillm.bench.worker import Worker
from minillm.model.load import load_parameters, read_config

SETTINGS = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}
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

    def __post_init__(self):
        from minillm.training.optimizer import zeros_like

        self.config, self.parameters = load_parameters(self.path)
        self.moments, self.steps = (zeros_like(self.parameters), zeros_like(self.parameters)), 0

    def step(self, tokens, targets):  # -> loss
        from minillm.training.model import loss_and_gradients
        from minillm.training.optimizer import adamw, clip

        self.steps += 1
        loss, gradients = loss_and_gradients(self.config, self.parameters, tokens, targets)
        clip(gradients, LARGEST)
        adamw(self.parameters, gradients, *self.moments, self.steps, RATE, **SETTINGS)
        return loss

    def run(self, batch, length, steps):  # -> StepTime
        return timed(self.step, self.config.vocab_size, batch, length, steps)


@dataclass
class TorchTraining:
    """Hugging Face transformers on torch."""

    path: str
    threads: int

    def __post_init__(self):
        import torch

        from minillm.bench.engines import Transformers

        self.model = Transformers(self.path, self.threads).model.train()
        betas, decay = (SETTINGS["beta1"], SETTINGS["beta2"]), SETTINGS["weight_decay"]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), RATE, betas, SETTINGS["epsilon"], decay)

    def step(self, tokens, targets):  # -> loss
        import torch

        logits = self.model(torch.from_numpy(tokens), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss)

    def run(self, batch, length, steps):  # -> StepTime
        return timed(self.step, self.model.config.vocab_size, batch, length, steps)


def timed(step, vocab_size, batch, length, steps):  # -> StepTime
    """Steps on one batch of random tokens; a first one, not counted, allocates what the others find again."""
    text = np.random.default_rng(0).integers(0, vocab_size, (batch, length + 1))
    tokens, targets = np.ascontiguousarray(text[:, :-1]), np.ascontiguousarray(text[:, 1:])
    first, seconds = step(tokens, targets), []
    for _ in range(steps):
        began = time.perf_counter()
        step(tokens, targets)
        seconds.append(time.perf_counter() - began)
    return StepTime(median(seconds), float(first))


def run(path, batch, length, rounds, threads, peers, say):  # -> dict, ready for JSON
    """Alternate; report medians over the rounds, and the ratio round by round."""
    config, machine = read_config(path), measure_machine()
    names = ["training", *(["torch training"] if peers else [])]
    workers, times, losses = {}, {name: [] for name in names}, {}
    try:
        for name in names:
            say(f"starting {name}")
            workers[name] = Worker(name, str(path), threads or machine.cores)
        for round_ in range(rounds):
            for name in names[:: 1 if round_ % 2 else -1]:
                say(f"round {round_ + 1} of {rounds}: {name}")
                answer = workers[name].ask(batch=batch, length=length, steps=3)
                times[name].append(answer["step_s"])
                losses.setdefault(name, answer["loss"])
    finally:
        for worker in workers.values():
            worker.close()
    flops, tokens = config.training_flops(batch * length, length), batch * length
    engines = {
        name: {
            "step_s": median(t),
            "tokens_per_s": tokens / median(t),
            "peak_share": flops / median(t) / machine.flops_per_s,
            "first_loss": losses[name],
        }
        for name, t in times.items()
    }
    ratios = [b / a for a, b in zip(times["training"], times.get("torch training", ()), strict=False)]
    about = {"model": config.name, "parameters": config.parameters(), "batch": batch, "length": length, "rounds": rounds}
    return about | {"flops": flops, "peak_flops_per_s": machine.flops_per_s, "engines": engines, "ratios_to_torch": ratios}


def table(result):  # -> text
    lines = [f"{result['model']}, {result['parameters']:,} parameters, {result['batch']} × {result['length']} tokens a step"]
    lines.append(f"{'':16}{'step':>10}{'tokens/s':>12}{'of peak':>10}{'first loss':>12}")
    for name, e in result["engines"].items():
        name = "minillm" if name == "training" else "torch"
        line = f"{name:16}{e['step_s'] * 1e3:7,.0f} ms{e['tokens_per_s']:12,.0f}{e['peak_share']:10.0%}{e['first_loss']:12.4f}"
        lines.append(line)
    if ratios := result["ratios_to_torch"]:
        low, high = min(ratios), max(ratios)
        lines.append(f"{median(ratios):.2f} × torch's speed ({low:.2f} to {high:.2f} in {len(ratios)} rounds)")
    return "\n".join(lines)
