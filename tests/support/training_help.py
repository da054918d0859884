"""A toy that learns: the smallest model with an embedding, a gain and a head, so that the loop can be tested without a Llama.

logits = (E[token] · g) @ Hᵀ
"""

import contextlib
import io
import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np

import minillm.cli
from minillm.training.task import Task

ROOT = Path(__file__).parents[2]
VOCABULARY, WIDTH = 31, 6
CONFIG = """
[run]
out = "{out}"
steps = {steps}
batch = 3
micro_batches = 2
length = 8
seed = 5
checkpoint_every = {every}
evaluate_every = 4

[data]
corpus = "corpus.txt"
held_out = 0.2

[model]
n_layers = 1
d_model = 6
n_heads = 1
n_kv_heads = 1
d_head = 6
d_ff = 12
vocab_size = 259
context_length = 16

[optimizer]
learning_rate = 0.05
floor = 0.001
warmup = 3
"""


def toy(vocabulary=VOCABULARY, width=WIDTH, seed=0, dtype=np.float32):  # -> {name: array}
    draw = np.random.default_rng(seed).standard_normal
    return {
        "token_embd.weight": draw((vocabulary, width)).astype(dtype),
        "output_norm.weight": np.ones(width, dtype),
        "output.weight": draw((vocabulary, width)).astype(dtype),
    }


def forward(parameters, tokens, targets):
    E, g, H = (parameters[name] for name in ("token_embd.weight", "output_norm.weight", "output.weight"))
    x, y = tokens.reshape(-1), targets.reshape(-1)
    rows = E[x]
    hidden = rows * g
    logits = hidden @ H.T
    logits = logits - logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    seen = y != -1
    loss = -logs[np.arange(len(y)), np.where(seen, y, 0)][seen].mean(dtype=np.float64)
    return float(loss), (x, y, seen, rows, hidden, logs)


def loss(parameters, tokens, targets):
    return forward(parameters, tokens, targets)[0]


def loss_and_gradients(parameters, tokens, targets):
    value, (x, y, seen, rows, hidden, logs) = forward(parameters, tokens, targets)
    E, g, H = (parameters[name] for name in ("token_embd.weight", "output_norm.weight", "output.weight"))
    d = np.exp(logs)
    d[np.arange(len(y))[seen], y[seen]] -= 1
    d *= seen[:, None] / E.dtype.type(seen.sum())
    dh = d @ H
    dE = np.zeros_like(E)
    np.add.at(dE, x, dh * g)
    return value, {"token_embd.weight": dE, "output_norm.weight": (dh * rows).sum(0), "output.weight": d.T @ hidden}


def write_corpus(folder, documents=40):
    """Short stories in which a letter says which comes next; each its own."""
    stories = [f"{i}: " + "abcdefgh"[i % 8 :] * (2 + i % 5) for i in range(documents)]
    (folder / "corpus.txt").write_text("<|endoftext|>".join(stories), encoding="utf-8")


def toy_task(config, tokenizer):
    """The toy as a task; it is written as .npz."""

    def write(folder, parameters):
        with open(folder / "model.gguf", "wb") as file:
            np.savez(file, **parameters)
        return folder / "model.gguf"

    return Task(lambda: toy(config.model.vocab_size, config.model.d_model, config.run.seed), loss_and_gradients, loss, write)


def run_training(*more):  # -> exit status
    """`minillm train` of the configuration that lies here."""
    return minillm.cli.main(["train", "--config", "train.toml", *more])


def edit(folder, old, new):
    """Change the configuration in one place."""
    path = folder / "train.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def refused(capsys, *more):  # -> the line on stderr
    assert run_training(*more) == 2
    out = capsys.readouterr()
    assert out.err.startswith("minillm: ") and out.err.count("\n") == 1 and out.out == ""
    return out.err


def use_toy(cli_train, **changes):
    """Let `minillm train` train the toy, with some of its functions changed."""
    cli_train.task_for = lambda *asked: replace(toy_task(*asked), **changes)
    cli_train.peak_flops = lambda: 1e9


def die():
    """As kill -9 from outside: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def child(arguments):
    """In a process of its own (serve), train the toy: FILE [--resume] then where to die, if anywhere.

    step:N            in the gradients of step N
    update:N          in the middle of the AdamW step N, after the first tensor
    watch:N           after step N, before its checkpoint
    draft:N           when the draft of the Nth checkpoint is half written
    rename:N          between the Nth draft and its rename
    """
    where, _, number = arguments.pop().partition(":") if ":" in arguments[-1] else ("", "", "0")
    number = int(number)
    import minillm.cli
    from minillm import files
    from minillm.cli import train
    from minillm.training import checkpoint, curve, loop

    calls = {"gradients": 0, "saves": 0, "updates": 0}

    def dying_gradients(parameters, tokens, targets):
        calls["gradients"] += 1
        if where == "step" and calls["gradients"] == 2 * number:
            die()
        return loss_and_gradients(parameters, tokens, targets)

    use_toy(train, loss_and_gradients=dying_gradients)
    write, adamw, savez, replace = curve.Curve.write, loop.adamw, np.savez, os.replace

    def dying_write(self, step):
        write(self, step)
        if where == "watch" and step.step == number:
            die()

    def dying_adamw(parameters, gradients, first, second, step, rate, **settings):
        if where == "update" and step == number:
            adamw(dict(list(parameters.items())[:1]), gradients, first, second, step, rate, **settings)
            die()
        adamw(parameters, gradients, first, second, step, rate, **settings)

    def dying_savez(file, **arrays):
        calls["saves"] += 1
        if where == "draft" and calls["saves"] == number:
            file.write(b"PK\x03\x04 half a draft")
            file.flush()
            die()
        savez(file, **arrays)

    def dying_replace(source, target):
        if where == "rename" and str(target).endswith(".npz") and calls["saves"] == number:
            die()
        replace(source, target)

    curve.Curve.write, loop.adamw, checkpoint.np.savez, files.os.replace = dying_write, dying_adamw, dying_savez, dying_replace
    sys.exit(minillm.cli.main(["train", "--config", *arguments]))


def serve():
    """Import once, and fork for each line of standard input, [folder, arguments, file for what is said]; answer its status."""
    from minillm.cli import train  # noqa: F401
    from minillm.training import checkpoint, curve, loop, picture  # noqa: F401

    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        minillm.cli.main(["train", "--help"])  # the parser imports all commands

    for line in sys.stdin:
        folder, arguments, log = json.loads(line)
        if (pid := os.fork()) == 0:
            os.chdir(folder)
            sys.stdin = open(os.devnull)  # noqa: SIM115 (to the end of this process)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
            try:
                child(arguments)
            except SystemExit as end:
                os._exit(end.code or 0)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
