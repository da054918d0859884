"""A training run as one TOML file: everything that its numbers depend on, and nothing that is guessed.

    [run]        out, steps, batch, micro_batches, length, seed, checkpoint_every, evaluate_every, evaluate_batches, recompute,
                 paged
    [data]       corpus, tokenizer, separator, held_out, aligned
    [base]       model, method, rank, alpha, matrices: a model to go on from, and which of its weights may change
    [model]      the fields of ModelConfig; with a base, its own
    [optimizer]  learning_rate, floor, warmup, beta1, beta2, epsilon, weight_decay, clip
    [about]      author, license, description: what model.gguf says of itself

A key that is not known is refused: a misspelt `weight_deacy` would train another model for hours. Each number has a range.
Paths count from the current directory, as everywhere on the command line. TOML: https://toml.io/en/v1.0.0.
"""

import json
import math
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from minillm.errors import TrainingError, did_you_mean
from minillm.model import zoo
from minillm.model.config import ModelConfig
from minillm.model.load import read_config

ANY = math.inf


def between(low: float, high: float, **default: Any) -> Any:
    """Make a field whose value must lie in [low, high]; high may be ANY finite number."""
    return field(metadata={"range": (low, high)}, **default)


@dataclass(frozen=True, slots=True)
class Run:
    """Length, batch sizes and output folder of a run. A step is micro_batches × batch sequences of `length` tokens."""

    out: str
    steps: int = between(1, 10**9)
    batch: int = between(1, 10**6)
    length: int = between(1, 10**6)
    micro_batches: int = between(1, 10**6, default=1)
    seed: int = between(0, 2**63 - 1, default=0)
    checkpoint_every: int = between(1, 10**9, default=100)
    evaluate_every: int = between(1, 10**9, default=100)
    evaluate_batches: int = between(1, 10**6, default=8)
    recompute: bool = False  # activations: computed again on the way back, not kept
    paged: bool = False  # AdamW's moments: in a file of run.out that is mapped, not in memory


@dataclass(frozen=True, slots=True)
class Data:
    """The data of a run. A separator stands between two documents.

    tokenizer: "bytes"; "bpe", trained on the corpus with model.vocab_size tokens; or a GGUF file that holds one.
    """

    corpus: str
    tokenizer: str = "bytes"
    separator: str = "<|endoftext|>"
    held_out: float = between(0.0, 0.5, default=0.05)  # share of the documents
    aligned: bool = False  # every window that is learnt from starts where a document does


@dataclass(frozen=True, slots=True)
class Base:
    """The model to start from. model: a name or a .gguf file; "" is random weights. method: "full", "lora" or "qlora".

    rank, alpha and matrices (names with commas between them) are those of the adapter that "lora" and "qlora" train.
    """

    model: str = ""
    method: str = "full"
    rank: int = between(1, 10**6, default=8)
    alpha: float = between(1e-6, 1e6, default=16.0)
    matrices: str = "attn_q,attn_v"


@dataclass(frozen=True, slots=True)
class Optimizer:
    """AdamW, its schedule, and the largest norm of a gradient."""

    learning_rate: float = between(1e-12, 10.0)
    floor: float = between(0.0, 10.0, default=0.0)
    warmup: int = between(0, 10**9, default=0)
    beta1: float = between(0.0, 0.999999, default=0.9)
    beta2: float = between(0.0, 0.999999, default=0.95)
    epsilon: float = between(1e-12, 1.0, default=1e-8)
    weight_decay: float = between(0.0, 10.0, default=0.1)
    clip: float = between(1e-6, 1e12, default=1.0)


@dataclass(frozen=True, slots=True)
class About:
    """Notes for readers of the file; no number depends on them."""

    author: str = ""
    license: str = ""
    description: str = ""

    def metadata(self) -> dict[str, str]:  # -> {GGUF key: str}
        return {f"general.{f.name}": text for f in fields(self) if (text := getattr(self, f.name))}


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The configuration of a run."""

    run: Run
    data: Data
    model: ModelConfig
    optimizer: Optimizer
    base: Base = Base()
    about: About = About()

    def flat(self) -> dict[str, Any]:  # -> {"table.key": value}
        """List every key with its value, defaults included."""
        tables = {t.name: getattr(self, t.name) for t in fields(self)}
        return {f"{t}.{f.name}": getattr(v, f.name) for t, v in tables.items() for f in fields(v) if f.name not in LEFT_OUT}

    def decisive(self) -> dict[str, Any]:  # -> {"table.key": value}
        """List the keys on which the numbers depend; where files go and how often they are written may change during a run."""
        free = {"run.out", "run.checkpoint_every", "run.evaluate_every", "run.evaluate_batches", "run.recompute", "run.paged"}
        free |= {"data.corpus", "model.name", *(f"about.{f.name}" for f in fields(About))}
        return {key: value for key, value in self.flat().items() if key not in free}

    def toml(self) -> str:
        """Write the configuration as a text that reads back equal, every default written out."""
        lines = []
        for name in TABLES:
            keys = [(k.partition(".")[2], v) for k, v in self.flat().items() if k.startswith(f"{name}.")]
            lines += [f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in keys), ""]
        return "\n".join(lines)


TABLES = {"run": Run, "data": Data, "base": Base, "model": ModelConfig, "optimizer": Optimizer, "about": About}
METHODS = ("full", "lora", "qlora")
LEFT_OUT = {"rope_scaling"}  # a model that is trained here needs no slower RoPE


def read(path: str | Path) -> TrainConfig:
    """Read and check a file. TrainingError names the key, what it must be and what it is."""
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise TrainingError(f"{path}: the configuration cannot be read: {error}.") from None
    except (ValueError, RecursionError) as error:  # TOML's own errors and bad UTF-8 are ValueErrors
        raise TrainingError(f"{path}: not TOML: {error}.") from None
    refuse_unknown(path, "table", tables, TABLES)
    take_over_from_base(path, tables)
    config = TrainConfig(**{name: build(path, name, kind, tables.get(name, {})) for name, kind in TABLES.items()})
    check_together(path, config)
    return config


def take_over_from_base(path: str | Path, tables: dict[str, Any]) -> None:
    """Take shape and tokenizer from the base; values that are given as well must agree. Changes `tables` in place."""
    base, data, model = (tables.get(name, {}) for name in ("base", "data", "model"))
    if not all(isinstance(table, dict) for table in (base, data, model)):
        return  # build() says so
    method, name = base.get("method", "full"), base.get("model", "")
    if method not in METHODS or (method != "full" and not name):
        known = f"{', '.join(METHODS)}, the latter two with a base.model"
        raise TrainingError(f"{path}: base.method must be {known}; found {method!r} and {name!r}.")
    if not name:
        return
    theirs = read_config(zoo.resolve(str(name)))
    if theirs.rope_scaling:
        raise TrainingError(f"{path}: base.model scales its RoPE ({theirs.rope_scaling}), which training does not know.")
    for key in (f.name for f in fields(ModelConfig) if f.name not in LEFT_OUT):
        if model.setdefault(key, getattr(theirs, key)) != getattr(theirs, key) and key != "name":
            raise TrainingError(f"{path}: model.{key} is {model[key]!r}, that of base.model {getattr(theirs, key)!r}.")
    if data.setdefault("tokenizer", name) != name:
        raise TrainingError(f"{path}: data.tokenizer is that of base.model, {name!r}; found {data['tokenizer']!r}.")
    tables |= {"data": data, "model": model}


def build(path: str | Path, table: str, kind: Any, values: Any) -> Any:  # -> Run, Data, ModelConfig or Optimizer
    """Build one table, each value of its type and in its range."""
    if not isinstance(values, dict):
        raise TrainingError(f"{path}: {table} must be a table, found {values!r}.")
    known = {f.name: f for f in fields(kind) if f.name not in LEFT_OUT}
    refuse_unknown(path, f"key in [{table}]", values, known)
    missing = [n for n, f in known.items() if n not in values and f.default is MISSING]
    if missing:
        raise TrainingError(f"{path}: [{table}] must say {', '.join(missing)}; found {', '.join(values) or 'nothing'}.")
    return kind(**{name: checked(f"{path}: {table}.{name}", known[name], value) for name, value in values.items()})


def checked(what: str, known: Any, value: Any) -> Any:  # -> the value, as the field's type
    """Check a value: TrainingError for another type, or a number out of range, infinite or NaN."""
    wanted = known.type
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:  # isinstance would take True for 1
        raise TrainingError(f"{what} must be of type {wanted.__name__}, found {value!r}.")
    low, high = known.metadata.get("range", (-ANY, ANY))
    if wanted is float and not math.isfinite(value):
        raise TrainingError(f"{what} must be a finite number, found {value}.")
    if wanted in (int, float) and not low <= value <= high:
        raise TrainingError(f"{what} must be from {low:g} to {high:g}, found {value}.")
    return value


def refuse_unknown(path: str | Path, what: str, found: Iterable[str], known: Iterable[str]) -> None:
    """Raise TrainingError for an unknown key, with the nearest name."""
    for name in found:
        if name not in known:
            raise TrainingError(f"{path}: {name!r} is no {what}; {did_you_mean(name, known)}")


def check_together(path: str | Path, config: TrainConfig) -> None:
    """Check the keys that must agree."""
    run, data, model, optimizer = config.run, config.data, config.model, config.optimizer
    if run.length > model.context_length:
        raise TrainingError(f"{path}: run.length is {run.length:,}, model.context_length holds {model.context_length:,}.")
    if optimizer.floor > optimizer.learning_rate:
        raise TrainingError(
            f"{path}: optimizer.floor must not be above learning_rate, found {optimizer.floor} and {optimizer.learning_rate}."
        )
    if optimizer.warmup > run.steps:
        raise TrainingError(f"{path}: optimizer.warmup is {optimizer.warmup:,} steps, run.steps only {run.steps:,}.")
    if not data.separator:
        raise TrainingError(f"{path}: data.separator must hold at least 1 character, found 0.")
    for key, value in {"run.out": run.out, "data.corpus": data.corpus, "data.tokenizer": data.tokenizer}.items():
        if not value.strip() or "\0" in value:
            raise TrainingError(f"{path}: {key} must be a path, found {value!r}.")


def toml_value(value: Any) -> str:
    """Encode a value: JSON writes these as TOML reads them, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
