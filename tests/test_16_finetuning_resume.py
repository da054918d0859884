"""A run that is killed with kill -9, wherever, and resumed has the weights of one that was not, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_help import CONFIG, write_corpus

from minillm.training.curve import read_curve

SUPPORT = Path(__file__).parent / "support"
STEPS, EVERY = 14, 4
MOMENTS = (
    "step:1", "step:4", "step:7", "step:14", "update:6", "update:8", "watch:4", "watch:9",
    "draft:1", "draft:2", "rename:1", "rename:3",
)  # fmt: skip


@pytest.fixture(scope="module")
def train():
    """Train in `folder`, in a child of its own; its exit status and what it said. A process that has imported all forks them."""
    path = os.pathsep.join([str(SUPPORT.parents[1]), str(SUPPORT)])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": os.environ | {"PYTHONPATH": path}}
    with subprocess.Popen([sys.executable, str(SUPPORT / "training_help.py")], **pipes) as server:

        def train(folder, *more, out="run", steps=STEPS):
            (folder / "train.toml").write_text(CONFIG.format(out=out, steps=steps, every=EVERY))
            print(json.dumps([str(folder), ["train.toml", *more], str(folder / "said")]), file=server.stdin, flush=True)
            return int(server.stdout.readline()), (folder / "said").read_text()

        yield train
        server.stdin.close()


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    write_corpus(folder)
    code, said = train(folder)
    assert code == 0, said
    return folder / "run"


def same_arrays(a, b):
    with np.load(a) as a, np.load(b) as b:
        assert set(a.files) == set(b.files)
        return [name for name in a.files if a[name].tobytes() != b[name].tobytes()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_is_bit_for_bit_the_run_that_was_not(moment, train, uninterrupted, tmp_path):
    write_corpus(tmp_path)
    code, said = train(tmp_path, moment)
    assert code == -9, said
    run, kept = tmp_path / "run", tmp_path / "run" / "checkpoint.npz"
    code, said = train(tmp_path, *(["--resume"] if kept.exists() else []))
    assert code == 0, said
    assert same_arrays(run / "model.gguf", uninterrupted / "model.gguf") == []
    assert same_arrays(kept, uninterrupted / "checkpoint.npz") == []
    with np.load(kept) as file:
        assert json.loads(file["state"].tobytes())["step"] == STEPS, "the last step has no checkpoint"
    ours, whole = ([(s.step, s.loss, s.held_out_loss) for s in read_curve(f / "loss.csv")] for f in (run, uninterrupted))
    assert ours == whole and [step for step, _, _ in ours] == list(range(1, STEPS + 1))
    assert not list(run.glob("*.part"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_killed_again_and_again_it_still_arrives(train, uninterrupted, tmp_path):
    write_corpus(tmp_path)
    for moment in ("step:6", "step:4", "draft:2"):  # counted from where each child starts
        resume = ["--resume"] if (tmp_path / "run" / "checkpoint.npz").exists() else []
        assert train(tmp_path, *resume, moment)[0] == -9
    assert train(tmp_path, "--resume")[0] == 0
    assert same_arrays(tmp_path / "run" / "checkpoint.npz", uninterrupted / "checkpoint.npz") == []
