"""`minillm train`: a model from a text, as a configuration file says. Stopped or killed, it goes on with --resume.

Into the folder run.out go: config.toml (every default written out), tokenizer.gguf where one was trained, train.tokens and
held_out.tokens, loss.csv, loss.png, checkpoint.npz, and at the end model.gguf, which `minillm generate --model` runs.
"""

from functools import partial
from pathlib import Path

HELP = "train a model as a configuration file says: GGUF, loss curve, exact resume"


def configure(parser):
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML with [run], [data], [model], [optimizer]")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in run.out")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the numeric libraries (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")


def run(args):
    from minillm.errors import TrainingError
    from minillm.files import replacing
    from minillm.memory import refuse_beyond_memory
    from minillm.model.write import model_metadata
    from minillm.training.config import read
    from minillm.training.curve import Curve, bar, pace, read_curve
    from minillm.training.data import Batches
    from minillm.training.loop import fit, training_flops
    from minillm.training.prepare import prepare, sha256

    config = read(args.config)
    refuse_beyond_memory(16 * config.model.parameters(), "weights, gradients and both moments")
    out, settings = Path(config.run.out), config.run
    kept = out / "checkpoint.npz"
    refuse_to_overwrite(kept, args.resume)
    tokenizer, train, held_out = prepare(config, out, args.resume)
    model_metadata(config.model, tokenizer, config.about.metadata())  # what no file can say is refused now, not at the end
    batches = Batches(train.ids, settings.batch, settings.length, settings.seed, f"{config.data.corpus} (to learn from)")
    judge = judge_for(config, held_out)
    decisive = config.decisive() | {"data.sha256": train.sha256, "tokenizer.sha256": sha256(tokenizer)}
    state = state_for(config, kept, batches, decisive, args.resume)
    with replacing(out / "config.toml", TrainingError) as file:
        file.write(config.toml().encode())

    flops = training_flops(config.model, settings.batch * settings.micro_batches, settings.length)
    peak, gradients = peak_flops(), gradients_of(config)
    with Curve(out / "loss.csv", state.step) as curve, bar(state.step, settings.steps) as progress:

        def watch(step):
            curve.write(step)
            progress.set_postfix_str(pace(step, flops, peak), refresh=False)
            progress.update()

        fit(config, state, batches, gradients, judge, kept, decisive, watch)
    write_model(out / "model.gguf", config.model, state.parameters, tokenizer, config.about.metadata())
    return told(args, config, read_curve(out / "loss.csv"), flops, peak)


def refuse_to_overwrite(kept, resume):
    """A run that is there is not trained over by mistake."""
    from minillm.errors import TrainingError

    if kept.exists() and not resume:
        raise TrainingError(f"{kept}: a run is there already. Go on with --resume, or give run.out another folder.")


def judge_for(config, held_out):  # -> (parameters -> loss), or None
    """The loss on the same held-out windows every time. TrainingError where one was asked for and there is too little text."""
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
    loss, count = loss_of(config), sum(len(tokens) for tokens, _ in windows)
    return lambda parameters: sum(len(t) * float(loss(parameters, t, targets)) for t, targets in windows) / count


def state_for(config, kept, batches, decisive, resume):  # -> checkpoint.State
    """A run at its start, or where its checkpoint stands."""
    from minillm.training import checkpoint
    from minillm.training.optimizer import zeros_like

    if resume:
        return checkpoint.load(kept, decisive)
    fresh = initial_parameters(config)
    return checkpoint.State(0, fresh, zeros_like(fresh), zeros_like(fresh), batches.state)


def initial_parameters(config):  # -> {name: float32 array}
    from minillm.training import model

    return model.parameters(config.model, config.run.seed)


def gradients_of(config):  # -> function (parameters, tokens, targets) -> loss, gradients
    from minillm.training import model

    return partial(model.loss_and_gradients, config.model, recompute=config.run.recompute)


def loss_of(config):  # -> function (parameters, tokens, targets) -> loss
    from minillm.training import model

    return partial(model.loss, config.model)


def write_model(path, config, parameters, tokenizer, extra):
    from minillm.model import write

    write.write_model(path, config, parameters, tokenizer, extra)


def peak_flops():  # -> FLOPs/s of a large matrix product here
    from minillm.bench.machine import measure_machine

    return measure_machine(megabytes=1, n=1024).flops_per_s


def told(args, config, steps, flops, peak):
    """The picture, a summary in one line, and JSON where it was asked for."""
    from statistics import median

    from minillm.bench.training import picture
    from minillm.cli.common import print_json

    if not steps:  # resumed after the last step, and somebody has removed the curve
        return
    out, last = Path(config.run.out), steps[-1]
    picture(steps, config.model.vocab_size, out / "loss.png")
    seconds = median(step.seconds for step in steps)
    result = {
        "steps": last.step, "loss": last.loss, "held_out_loss": last.held_out_loss,
        "tokens": sum(step.tokens for step in steps), "training_s": sum(step.seconds for step in steps),
        "tokens_per_s": last.tokens / seconds, "peak_share": flops / seconds / peak,
        "parameters": config.model.parameters(), "model": str(out / "model.gguf"),
    }  # fmt: skip
    held_out = "" if last.held_out_loss is None else f", held out {last.held_out_loss:.3f}"
    print(
        f"{last.step:,} steps, loss {last.loss:.3f}{held_out}, {result['tokens_per_s']:,.0f} tokens/s "
        f"({result['peak_share']:.0%} of peak): {result['model']}"
    )
    if args.json:
        print_json(result)
