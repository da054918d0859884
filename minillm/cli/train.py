"""`minillm train`: a model from a text, as a configuration file says. Stopped or killed, it goes on with --resume.

Into the folder run.out go: config.toml (every default written out), tokenizer.gguf where one was trained, train.tokens and
held_out.tokens, loss.csv, loss.png, checkpoint.npz, and at the end model.gguf (`minillm generate PROMPT --model model.gguf`),
or adapter.gguf, to be put beside its base (`minillm generate PROMPT --lora adapter.gguf`).
Without a terminal there is no bar but a line every run.evaluate_every steps.
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from minillm.cli.arguments import Parser
from minillm.cli.common import add_threads_option, print_json

if TYPE_CHECKING:
    from minillm.training.checkpoint import State
    from minillm.training.config import TrainConfig
    from minillm.training.data import Batches, TokenFile
    from minillm.training.loop import StepStats
    from minillm.training.task import Task

HELP = "train a tokenizer and a model as a configuration file says: GGUF, loss curve, exact resume"


def configure(parser: Parser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML: [run], [data], [base], [model], [optimizer]")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in run.out")
    add_threads_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")


def run(args: Namespace) -> int:
    from minillm.errors import TrainingError
    from minillm.files import replacing
    from minillm.memory import refuse_beyond_memory
    from minillm.terminal import bar
    from minillm.training.config import read
    from minillm.training.curve import Curve, pace, read_curve, row
    from minillm.training.data import Batches
    from minillm.training.loop import fit
    from minillm.training.paged import paged
    from minillm.training.prepare import beginnings, prepare, sha256

    config = read(args.config)
    out, settings = Path(config.run.out), config.run
    held, what, instead = 16, "weights, gradients and both moments", "run.paged = true keeps the moments in a file."
    if settings.paged:
        held, what, instead = 8, "weights and gradients", ""
    if config.base.method != "full":
        held, what, instead = 4, "the weights of the base", ""
    refuse_beyond_memory(held * config.model.parameters(), what, instead)
    kept = out / "checkpoint.npz"
    refuse_to_overwrite(kept, args.resume)
    tokenizer, train, held_out = prepare(config, out, args.resume)
    task = task_for(config, tokenizer)
    begins = beginnings(tokenizer, train.ids) if config.data.aligned else None
    what = f"{config.data.corpus} (to learn from)"
    batches = Batches(train.ids, settings.batch, settings.length, settings.seed, what, begins)
    judge = judge_for(config, held_out, task.loss)
    decisive = config.decisive() | {"data.sha256": train.sha256, "tokenizer.sha256": sha256(tokenizer)} | base_sha256(config)
    state = state_for(task, kept, batches, decisive, args.resume)
    if settings.paged:
        state.first, state.second = paged(state.first, out), paged(state.second, out)
    with replacing(out / "config.toml", TrainingError) as file:
        file.write(config.toml().encode())

    tokens = settings.micro_batches * settings.batch * settings.length
    flops, peak = task.flops_share * config.model.training_flops(tokens, settings.length), peak_flops()
    done, begin = state.step, perf_counter()
    with Curve(out / "loss.csv", done) as curve, bar(settings.steps, "steps", done) as progress:

        def watch(step: "StepStats") -> None:
            told = pace(step, flops, peak)
            curve.write(step)
            progress.set_postfix_str(told, refresh=False)
            progress.update()
            if progress.disable and (step.step % settings.evaluate_every == 0 or step.step == settings.steps):  # a log file
                seconds = (perf_counter() - begin) / (step.step - done)
                print(row(step, settings.steps, told, seconds), file=sys.stderr, flush=True)

        fit(config, state, batches, task.loss_and_gradients, judge, kept, decisive, watch)
    written = task.write(out, state.parameters)
    told(args, config, written, read_curve(out / "loss.csv"), flops, peak)
    return 0


def refuse_to_overwrite(kept: Path, resume: bool) -> None:
    """Refuse to train over an existing run by mistake."""
    from minillm.errors import TrainingError

    if kept.exists() and not resume:
        raise TrainingError(f"{kept}: a run is there already. Go on with --resume, or give run.out another folder.")


def judge_for(config: "TrainConfig", held_out: "TokenFile", loss: Callable) -> Callable | None:  # parameters -> loss
    """Make the held-out loss, on the same windows every time. TrainingError where one was asked for and the text is too short."""
    from minillm.errors import TrainingError
    from minillm.training.data import held_out_batches

    run = config.run
    if not config.data.held_out:
        return None
    if len(held_out.ids) <= run.length:
        raise TrainingError(
            f"the held-out documents give {len(held_out.ids):,} tokens, one window needs {run.length + 1:,}: raise "
            f"data.held_out ({config.data.held_out:g}), or set it to 0."
        )
    windows = held_out_batches(held_out.ids, run.batch, run.length, run.evaluate_batches)
    count = sum(len(tokens) for tokens, _ in windows)
    return lambda parameters: sum(len(t) * float(loss(parameters, t, targets)) for t, targets in windows) / count


def state_for(task: "Task", kept: Path, batches: "Batches", decisive: dict, resume: bool) -> "State":
    """Make the state of a run at its start, or load it from its checkpoint."""
    from minillm.training import checkpoint
    from minillm.training.optimizer import zeros_like

    fresh = task.initial()
    if resume:
        return checkpoint.load(kept, decisive, like=fresh)
    return checkpoint.State(0, fresh, zeros_like(fresh), zeros_like(fresh), batches.state)


def task_for(config: "TrainConfig", tokenizer: dict[str, Any]) -> "Task":
    from minillm.training import task

    return task.task_for(config, tokenizer)


def base_sha256(config: "TrainConfig") -> dict[str, str]:  # {"base.sha256": hexadecimal}, or nothing
    """Hash the file that the run starts from: a name may come to mean another one."""
    from hashlib import file_digest

    from minillm.model import zoo

    if not config.base.model:
        return {}
    with open(zoo.resolve(config.base.model), "rb") as file:
        return {"base.sha256": file_digest(file, "sha256").hexdigest()}


def peak_flops() -> float:  # FLOPs/s of a large matrix product here
    from minillm.bench.machine import measure_machine

    return measure_machine(megabytes=1, n=1024).flops_per_s


def told(args: Namespace, config: "TrainConfig", written: Path, steps: "list[StepStats]", flops: float, peak: float) -> None:
    """Draw the picture, and print a summary in one line, or JSON where it was asked for."""
    from statistics import median

    from minillm.training.memory import activation_bytes
    from minillm.training.picture import picture

    if not steps:  # resumed after the last step, and the curve was removed
        return
    out, last = Path(config.run.out), steps[-1]
    picture(steps, config.model.vocab_size, out / "loss.png")
    seconds, run, base = median(step.seconds for step in steps), config.run, config.base
    adapted = None if base.method == "full" else base.matrices
    waiting = activation_bytes(config.model, run.batch, run.length, adapted, run.recompute)
    result = {
        "steps": last.step, "loss": last.loss, "held_out_loss": last.held_out_loss,
        "tokens": sum(step.tokens for step in steps), "training_s": sum(step.seconds for step in steps),
        "tokens_per_s": last.tokens / seconds, "peak_share": flops / seconds / peak,
        "activation_bytes": waiting,
        "parameters": config.model.parameters(), "model": str(written),
    }  # fmt: skip
    held_out = "" if last.held_out_loss is None else f", held out {last.held_out_loss:.3f}"
    if args.json:
        print_json(result)
        return
    print(
        f"{last.step:,} steps, loss {last.loss:.3f}{held_out}, {result['tokens_per_s']:,.0f} tokens/s "
        f"({result['peak_share']:.0%} of peak), {waiting / 1e6:,.1f} MB of activations: {result['model']}"
    )
