"""`minillm bench training`: a step is measured in a process of its own, and it is a step of training."""

import json
import math

import numpy as np
import pytest

from minillm.bench.peers.training import OurTraining
from minillm.cli import main
from minillm.model.config import ModelConfig
from minillm.model.random_model import byte_metadata
from minillm.model.write import write_model
from minillm.training import model

pytestmark = pytest.mark.usefixtures("quick_machine")
SHAPE = ModelConfig(
    n_layers=1, d_model=32, n_heads=2, n_kv_heads=1, d_head=16, d_ff=48, vocab_size=260, context_length=32, tied=True, name="base"
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    write_model(tmp_path / "m.gguf", SHAPE, model.parameters(SHAPE, 7), byte_metadata(260))
    return tmp_path / "m.gguf"


def test_the_command_reports_a_step(path, capsys):
    asked = ["bench", "training", "--model", str(path), "--batch", "2", "--prompt-tokens", "16", "--rounds", "2", "--json"]
    assert main(asked) == 0
    out, said = capsys.readouterr()
    result = json.loads(out)
    engine = result["engines"]["training"]
    assert engine["first_loss"] == pytest.approx(math.log(260), rel=0.02), "random weights know nothing"
    assert engine["tokens_per_s"] == pytest.approx(32 / engine["step_s"])
    assert result["flops"] == SHAPE.training_flops(32, 16) and result["ratios_to_torch"] == []
    assert "torch" not in said.splitlines()[2]


def test_a_timed_step_trains(path):
    engine = OurTraining(str(path), 1)
    text = np.random.default_rng(1).integers(0, 260, (2, 17))
    losses = [engine.step(text[:, :-1], text[:, 1:]) for _ in range(8)]
    assert losses[-1] < losses[0] and engine.steps == 8
    assert engine.run(2, 16, 3).step_s > 0 and engine.steps == 12


@pytest.mark.parametrize("wrong", [["--batch", "0"], ["--prompt-tokens", "0"], ["--prompt-tokens", "33"]])
def test_sizes_that_make_no_step_are_refused(path, capsys, wrong):
    assert main(["bench", "training", "--model", str(path), *wrong]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("minillm: ")


def test_one_batch_size_a_run(path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "training", "--model", str(path), "--batch", "1,2"])
    assert ended.value.code == 2 and "--batch: invalid int value: '1,2'" in capsys.readouterr().err
