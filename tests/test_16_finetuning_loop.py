"""The loop: micro-batches, numbers that are none, checkpoints of other runs and damaged ones, the curve."""

import json
import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from training_help import CONFIG, VOCABULARY, loss, loss_and_gradients, toy

from minillm.errors import TrainingError
from minillm.model.config import ModelConfig
from minillm.model.presets import preset
from minillm.training import checkpoint
from minillm.training.config import read
from minillm.training.curve import Curve, read_curve
from minillm.training.data import Batches
from minillm.training.loop import StepStats, accumulate, fit, not_finite
from minillm.training.optimizer import zeros_like


@pytest.fixture
def config(tmp_path):
    (path := tmp_path / "train.toml").write_text(CONFIG.format(out="run", steps=10, every=3))
    return read(path)


def batches(batch=3, length=8, seed=5):
    return Batches(np.random.default_rng(1).integers(0, VOCABULARY, 400).astype(np.uint16), batch, length, seed)


def fresh(dtype=np.float32):
    p = toy(dtype=dtype)
    return checkpoint.State(0, p, zeros_like(p), zeros_like(p), batches().state)


class Fixed:
    """Batches that were drawn before."""

    def __init__(self, drawn):
        self.drawn = list(drawn)

    def draw(self):
        return self.drawn.pop(0)


# --- accumulation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("pieces", [1, 2, 3, 6])
def test_micro_batches_give_what_one_batch_gives(pieces, gaps):
    tokens, targets = batches(batch=6).draw()
    if gaps:  # pieces with unequal numbers of targets: a mean of means would be wrong
        targets = targets.copy()
        targets[0, 1:] = targets[3, :4] = -1
    parameters = toy()
    expected, wanted = loss_and_gradients(toy(dtype=np.float64), tokens, targets)
    parts = zip(np.split(tokens, pieces), np.split(targets, pieces), strict=True)
    value, gradients, count = accumulate(parameters, Fixed(parts), pieces, loss_and_gradients)
    assert value == pytest.approx(expected, rel=1e-6) and count == tokens.size
    for name, gradient in gradients.items():
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, wanted[name], rtol=0, atol=1e-6 * np.abs(wanted[name]).max(), err_msg=name)


def test_gradients_that_the_model_uses_again_are_left_alone():
    kept = {"w": np.ones(3, np.float32)}
    drawn = [(np.zeros((1, 2), int), np.zeros((1, 2), int))] * 3
    _, gradients, _ = accumulate({}, Fixed(drawn), 3, lambda *_: (1.0, kept))
    assert kept["w"].tolist() == [1, 1, 1] and gradients["w"].tolist() == [1, 1, 1]


# --- the loop -------------------------------------------------------------------------------------------------------------


def test_it_learns_clips_and_follows_the_schedule(config):
    seen = []
    config = replace(config, run=replace(config.run, steps=60))
    state = fit(config, fresh(), batches(), loss_and_gradients, lambda p: loss(p, *batches().draw()), watch=seen.append)
    assert state.step == 60 and [s.step for s in seen] == list(range(1, 61))
    assert seen[-1].loss < 0.8 * seen[0].loss
    assert [s.step for s in seen if s.held_out_loss is not None] == list(range(4, 61, 4))
    assert seen[0].learning_rate == pytest.approx(0.05 / 3) and seen[-1].learning_rate == 0.001
    assert all(s.tokens == 2 * 3 * 8 for s in seen)
    assert seen[-1].held_out_loss == pytest.approx(loss(state.parameters, *batches().draw())), "judged before the step"


def test_a_gradient_far_too_large_moves_no_more_than_its_direction(config):
    config = replace(config, run=replace(config.run, steps=1, micro_batches=1))

    def scaled(factor):
        def f(*args):
            value, gradients = loss_and_gradients(*args)
            return value, {name: g * np.float32(factor) for name, g in gradients.items()}

        return fit(config, fresh(), batches(), f)

    a, b = scaled(1e3), scaled(1e6)
    for name in a.second:
        np.testing.assert_allclose(a.second[name], b.second[name], rtol=1e-4, atol=0)
    squares = sum(float(v.sum(dtype=np.float64)) for v in a.second.values()) / (1 - 0.95)
    assert squares == pytest.approx(1.0, rel=1e-4), "the norm after clipping is not the limit"


def poisoned(at, what, tensor="output_norm.weight"):
    """The toy, whose gradient of one tensor (or whose loss) is no number from call `at` on."""
    calls = []

    def f(parameters, tokens, targets):
        calls.append(1)
        value, gradients = loss_and_gradients(parameters, tokens, targets)
        if len(calls) == at:
            if tensor == "loss":
                return what, gradients
            gradients[tensor].reshape(-1)[2] = what
        return value, gradients

    return f


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [1, 3, 7, 8, 10])
def test_a_gradient_that_is_no_number_stops_and_the_last_checkpoint_stays(config, tmp_path, step, bad):
    path, seen = tmp_path / "c.npz", []
    state = fresh()
    with pytest.raises(TrainingError) as error:
        fit(config, state, batches(), poisoned(2 * step - 1, bad), path=path, watch=seen.append)
    said, saved = str(error.value), (step - 1) // 3 * 3
    assert f"step {step}: " in said and "that of output_norm.weight, in 1 of 6 values, at [2]" in said
    assert (f"the checkpoint of step {saved} is kept" if saved else "there is no checkpoint yet") in said
    assert len(seen) == state.step == step - 1 and all(np.isfinite(a).all() for a in state.parameters.values())
    if saved:
        kept = checkpoint.load(path, {})
        clean = replace(config, run=replace(config.run, steps=10))
        resumed = fit(clean, kept, batches(), loss_and_gradients)
        whole = fit(clean, fresh(), batches(), loss_and_gradients)
        assert all(resumed.parameters[n].tobytes() == a.tobytes() for n, a in whole.parameters.items())
    else:
        assert not path.exists()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("micro", [3, 4])
def test_a_loss_that_is_no_number_stops_though_every_gradient_is_one(config, bad, micro):
    with pytest.raises(TrainingError, match="step 2: the loss is (nan|inf), all 3 gradients are finite"):
        fit(config, fresh(), batches(), poisoned(micro, bad, "loss"))


def test_the_first_on_the_way_back_is_the_nearest_to_the_loss():
    names = (
        "token_embd.weight",
        "blk.0.ffn_down.weight",
        "blk.2.attn_q.weight",
        "blk.2.ffn_norm.weight",
        "blk.10.attn_norm.weight",
    )
    gradients = {name: np.array([[0.0, 1.0], [math.nan, 1.0]]) for name in names} | {"output.weight": np.zeros(2)}
    order = []
    while len(gradients) > 1:
        said = not_finite(math.nan, gradients)
        assert f"{len(gradients) - 1} of {len(gradients)} gradients" in said and "1 of 4 values, at [1, 0]" in said
        order.append(said.split("that of ")[1].split(",")[0])
        del gradients[order[-1]]
    assert order == [names[i] for i in (4, 3, 2, 1, 0)]


def test_training_costs_three_forwards_over_every_position():
    model = ModelConfig(2, 8, 2, 1, 4, 12, 50, 64)
    by_hand = 0  # multiply-adds of one sequence of 5, position by position
    for position in range(5):
        by_hand += 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 12) + 50 * 8 + 2 * 2 * 2 * 4 * (position + 1)
    assert model.training_flops(15, 5) == 3 * 3 * 2 * by_hand
    big = preset("llama-3-8b")
    assert big.training_flops(7, 1) == pytest.approx(big.training_flops(7), rel=1e-3)


# --- checkpoints ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_configuration_is_refused_and_names_the_keys(config, tmp_path):
    path = tmp_path / "c.npz"
    checkpoint.save(path, fresh(), {"run.seed": 1, "run.steps": 10, "model.tied": False})
    same = checkpoint.load(path, {"model.tied": False, "run.steps": 10, "run.seed": 1})
    assert same.step == 0 and same.batches == {"epoch": 0, "next": 0}
    with pytest.raises(TrainingError) as error:
        checkpoint.load(path, {"run.seed": 2, "run.steps": 10, "optimizer.clip": 1.0})
    said = str(error.value)
    assert "run.seed is 1 in the checkpoint, 2 now" in said and "run.steps" not in said
    assert "model.tied is false in the checkpoint, missing now" in said
    assert "optimizer.clip is missing in the checkpoint, 1.0 now" in said


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "c.npz"
    checkpoint.save(path, fresh(), {})
    good = path.read_bytes()
    for data in (b"", b"PK\x03\x04", good[: len(good) // 2], good[:-30], good[:900] + bytes([good[900] ^ 255]) + good[901:]):
        path.write_bytes(data)
        with pytest.raises(TrainingError, match="not a checkpoint, or a damaged one"):
            checkpoint.load(path, {})
    with pytest.raises(TrainingError, match="no checkpoint to resume"):
        checkpoint.load(tmp_path / "none.npz", {})


def test_any_byte_of_a_zips_headers_may_be_changed(tmp_path):
    """Also to methods, versions and flags that zipfile does not know."""
    path, arrays, refused = tmp_path / "c.npz", {"a": np.ones(4, np.float32)}, 0
    checkpoint.save(path, checkpoint.State(3, arrays, arrays, arrays, {"epoch": 0, "next": 1}), {"x": 1})
    good = path.read_bytes()
    for at in (*range(0, 300), *range(good.index(b"PK\x01\x02"), len(good))):
        path.write_bytes(good[:at] + bytes([(good[at] ^ 1, good[at] ^ 32, 255)[at % 3]]) + good[at + 1 :])
        try:
            checkpoint.load(path, {"x": 1})
        except TrainingError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 200


def header(shape, descr="<f4", fortran="False"):
    text = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n"


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (header("(1000000000000,)") + bytes(8), "shape .1000000000000,. has 8 bytes"),
        (header(f"({10**18}, {10**18})") + bytes(8), "has 8 bytes"),
        (header("(2,)"), "has 0 bytes"),
        (header("(2,)", "|O") + bytes(16), "says .*O"),
        (header("__import__('os')") + bytes(8), "says .*import"),
        (b"text", "which is no array"),
        (header("(2,)")[:-1] + bytes(8), "says"),
    ],
)
def test_an_array_is_read_only_where_it_is_what_it_claims(tmp_path, member, says):
    path = tmp_path / "c.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("state.npy", member)
    with pytest.raises(TrainingError, match=says):
        checkpoint.load(path, {})


def test_an_archive_that_would_grow_is_refused_unread(tmp_path):
    path = tmp_path / "c.npz"
    np.savez_compressed(path, state=np.zeros(10**7, np.uint8))
    with pytest.raises(TrainingError, match="members of 10,000,1.. bytes, stored as they are in .* were expected"):
        checkpoint.load(path, {})


def test_arrays_come_back_in_any_shape_and_order(tmp_path):
    path, arrays = tmp_path / "c.npz", {"a": np.ones(()), "b": np.arange(12.0).reshape(3, 4).T, "c": np.ones((0, 2), np.float16)}
    checkpoint.save(path, checkpoint.State(1, arrays, arrays, arrays, {"epoch": 0, "next": 0}), {})
    kept = checkpoint.load(path, {}, like=arrays)
    for name, array in arrays.items():
        assert kept.parameters[name].tolist() == array.tolist() and kept.first[name].dtype == array.dtype
        assert kept.second[name].flags.writeable
    with pytest.raises(TrainingError, match=r"of another model: 'b' is \(4, 3, 'float64'\) where the run has none"):
        checkpoint.load(path, {}, like={"a": arrays["a"], "c": arrays["c"]})


@pytest.mark.parametrize("configuration", [{"a": [1]}, {"a": {"b": 1}}, [1], "x"])
def test_a_configuration_is_numbers_and_texts(tmp_path, configuration):
    path = tmp_path / "c.npz"
    about = {"version": 1, "step": 1, "batches": {"epoch": 0, "next": 0}, "sha256": "", "configuration": configuration}
    np.savez(path, state=np.frombuffer(json.dumps(about).encode(), np.uint8))
    with pytest.raises(TrainingError, match="configuration"):
        checkpoint.load(path, {})


def test_nothing_pickled_is_read(tmp_path):
    path = tmp_path / "c.npz"
    np.savez(path, state=np.array([{"step": 1}], dtype=object))
    with pytest.raises(TrainingError, match=r"an array says .*\|O"):
        checkpoint.load(path, {})
    checkpoint.save(path, fresh(), {})
    with zipfile.ZipFile(path) as file:
        heads = {name: file.read(name) for name in file.namelist()}
    assert all(head.startswith(b"\x93NUMPY") and b"'|O'" not in head[:128] for head in heads.values())


@pytest.mark.parametrize("change", [{"step": -1}, {"step": 1.5}, {"batches": {"epoch": 0}}, {"version": 2}, {"sha256": "0"}])
def test_a_state_that_makes_no_sense_is_refused(tmp_path, change):
    path = tmp_path / "c.npz"
    checkpoint.save(path, fresh(), {})
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(arrays["state"].tobytes()) | change
    np.savez(path, **arrays | {"state": np.frombuffer(json.dumps(about).encode(), np.uint8)})
    with pytest.raises(TrainingError):
        checkpoint.load(path, {})


@pytest.mark.parametrize("group", ["parameters", "first", "second"])
def test_values_that_are_not_finite_are_neither_saved_nor_read(tmp_path, group):
    path, state = tmp_path / "c.npz", fresh()
    checkpoint.save(path, state, {})
    before = path.read_bytes()
    getattr(state, group)["output.weight"][3, 1] = math.inf
    with pytest.raises(TrainingError, match=f"{group}/output.weight must hold finite"):
        checkpoint.save(path, state, {})
    assert path.read_bytes() == before
    del getattr(state, group)["output.weight"]
    with pytest.raises(TrainingError, match="output.weight"):
        checkpoint.save(path, state, {})


def test_a_disk_that_is_full_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path, state = tmp_path / "c.npz", fresh()
    checkpoint.save(path, state, {})
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.np, "savez", full)
    with pytest.raises(TrainingError, match="No space left"):
        checkpoint.save(path, state, {})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.npz"]


# --- the curve ------------------------------------------------------------------------------------------------------------


def test_a_curve_goes_on_from_the_checkpoint_and_drops_what_came_after_it(tmp_path):
    path = tmp_path / "loss.csv"
    steps = [StepStats(n, 1 / n, None if n % 2 else 0.1 * n, 1e-3 / 3, 2.0, 48, 0.25) for n in range(1, 8)]
    with Curve(path) as curve:
        for step in steps[:5]:
            curve.write(step)
        assert read_curve(path) == steps[:5], "a row must be on disk before the next step"
    path.write_text(path.read_text()[:-2])  # 0.25 has become 0.2: whole to look at, but its line has not ended
    assert read_curve(path) == steps[:4]
    with Curve(path, after=4) as curve:
        curve.write(steps[4])
    path.write_text(path.read_text() + "6,0.1666")  # killed in the middle of a row
    assert read_curve(path) == steps[:5]
    with Curve(path, after=3) as curve:
        curve.write(steps[3])
    assert read_curve(path) == steps[:4]
    with Curve(path):
        assert read_curve(path) == []
    assert read_curve(tmp_path / "none.csv") == []
