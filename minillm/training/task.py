"""What a run trains, and from where: the loop sees names, arrays and three functions.

    [base] model    method     starts from            trains                            writes
    none            full       random weights         all of them                       model.gguf
    a file          full       the file's weights     all of them                       model.gguf
    a file          lora       the file's weights     thin matrices beside them         adapter.gguf, adapter/ (PEFT's form)
    a file          qlora      the same in four bits  thin matrices beside them         adapter.gguf, adapter/
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minillm.model import zoo
from minillm.model.adapter_files import save_gguf, save_peft
from minillm.model.load import load_parameters
from minillm.model.lora import Adapter
from minillm.model.write import model_metadata, write_model
from minillm.training import lora, model
from minillm.training.config import TrainConfig
from minillm.training.lora import fresh_adapter
from minillm.training.qlora import quantize_base


@dataclass(frozen=True, slots=True)
class Task:
    """The functions that a run is made of.

    initial:            () -> {name: array}, what is trained, before the first step.
    loss_and_gradients: (parameters, tokens, targets) -> float, {name: array}
    loss:               (parameters, tokens, targets) -> float
    write:              (folder, parameters, tokenizer metadata) -> path of the file that was written
    flops_share:        of full training's FLOPs. A frozen matrix needs no gradient: one of its three products is saved.
    """

    initial: Callable
    loss_and_gradients: Callable
    loss: Callable
    write: Callable
    flops_share: float = 1.0


def task_for(config: TrainConfig, tokenizer: dict[str, Any]) -> Task:
    """Make the task of a configuration. TrainingError, ModelError or GGUFError for a base that cannot be trained that way."""
    if config.base.method == "full":
        return full_finetuning(config, tokenizer)
    return adapter_finetuning(config)


def full_finetuning(config: TrainConfig, tokenizer: dict[str, Any]) -> Task:
    """Train every weight, with a gradient and two moments each."""
    model_metadata(config.model, tokenizer, config.about.metadata())  # what no file can say is refused now, not at the end

    def initial() -> dict[str, np.ndarray]:
        if config.base.model:
            return load_parameters(zoo.resolve(config.base.model))[1]
        return model.parameters(config.model, config.run.seed)

    def write(folder: Path, parameters: dict[str, np.ndarray]) -> Path:
        path = folder / "model.gguf"
        write_model(path, config.model, parameters, tokenizer, config.about.metadata())
        return path

    gradients = partial(model.loss_and_gradients, config.model, recompute=config.run.recompute)
    return Task(initial, gradients, partial(model.loss, config.model), write)


def adapter_finetuning(config: TrainConfig) -> Task:
    """Train an adapter's weights; the base is read once and never written to."""
    c, how = config.model, config.base
    matrices = tuple(name.strip() for name in how.matrices.split(","))
    fresh = fresh_adapter(c, how.rank, how.alpha, matrices, config.run.seed)
    base = load_parameters(zoo.resolve(how.model))[1]
    if how.method == "qlora":
        base = quantize_base(base)

    def write(folder: Path, parameters: dict[str, np.ndarray]) -> Path:
        adapter, path = Adapter(parameters, fresh.alpha), folder / "adapter.gguf"
        save_peft(folder / "adapter", adapter, c, how.model)
        save_gguf(path, adapter, c)
        return path

    gradients = partial(lora.loss_and_gradients, c, base, fresh.alpha, recompute=config.run.recompute)
    return Task(lambda: dict(fresh.weights), gradients, partial(lora.loss, c, base, fresh.alpha), write, 2 / 3)
