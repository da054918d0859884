"""What the benchmarks of rounding say, at their smallest: outliers of keys, formats beside float32, activations × formats."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from minillm import tour
from minillm.bench import kv, precision
from minillm.bench.compare import ceilings
from minillm.bench.kept import joined
from minillm.bench.machine import Machine
from minillm.bench.model import peers
from minillm.bench.quality import probe
from minillm.calibration.key_outliers import largest_channel, with_key_outliers
from minillm.cli import main
from minillm.costs.memory import kivi_window_bytes, kv_token_bytes
from minillm.errors import MiniLLMError, ModelError
from minillm.llm import LLM
from minillm.model.load import read_config
from minillm.model.random_model import TINY, random_model
from minillm.model.transformer import Segment
from minillm.model.zoo import resolve

SMALL = replace(TINY, n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=96, context_length=128)


def keys(model, ids):  # -> of each layer, (tokens, heads, d)
    model.forward([Segment(ids, 0, cache := model.new_cache())])
    return [np.array(cache.read(layer)[0]) for layer in range(model.config.n_layers)]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_outliers_of_keys_change_no_logit_and_are_a_pair_of_channels(interleaved, bias):
    llm = LLM(random_model(replace(SMALL, rope_interleaved=interleaved, qkv_bias=bias)))
    loud = LLM((with_key_outliers(llm.transformer, 20), llm.tokenizer))
    ids = np.random.default_rng(0).integers(0, 500, 40)
    want = probe(llm, ids)
    np.testing.assert_allclose(probe(loud, ids), want, atol=1e-5 * np.abs(want).max())
    for before, after in zip(keys(llm.transformer, ids), keys(loud.transformer, ids), strict=True):
        ratio = np.abs(after).mean(axis=0) / np.abs(before).mean(axis=0)
        assert np.isclose(ratio, 20, rtol=1e-4).sum() == 2 * SMALL.n_kv_heads and np.isclose(ratio, 1, rtol=1e-4).sum() == 28
        chosen = np.isclose(ratio[0], 20, rtol=1e-4).nonzero()[0]
        assert chosen[1] - chosen[0] == (1 if interleaved else 8), "the two that RoPE turns into each other"


def test_outliers_that_cannot_be_put_in_are_refused():
    with pytest.raises(ModelError, match="factor above 0 and 1 to 8 pairs, found 0 and 1"):
        with_key_outliers(random_model(SMALL)[0], 0)
    with pytest.raises(ModelError, match="found 20 and 9"):
        with_key_outliers(random_model(SMALL)[0], pairs=9)
    for wrong in (replace(SMALL, qk_norm=True),):
        with pytest.raises(ModelError, match="without a norm of queries and keys"):
            with_key_outliers(random_model(wrong)[0])
    packed = copy.copy(random_model(SMALL)[0])
    packed.weights = replace(packed.weights, layers=[replace(packed.weights.layers[0], k=b"packed")])
    with pytest.raises(ModelError, match="of a model in float32"):
        with_key_outliers(packed)


def test_errors_per_channel_and_per_token_by_hand():
    """32 tokens of one head: channel 3 counts to 31 in steps that 4 bits have not, the others are on both grids."""
    x = np.zeros((32, 1, 8), np.float32)
    x[:, 0, 3] = np.arange(32) * 15 / 31
    by_channel, by_token = kv.errors(x, 4)
    want = x[:, 0, 3] - np.rint(x[:, 0, 3])
    assert by_channel == pytest.approx(np.sqrt(np.square(want).sum() / np.square(x).sum()), rel=0.02)
    assert by_token < 1e-3, "a token's grid ends at its largest number"
    assert largest_channel(x) == pytest.approx(8), "all of the mean over 8 channels is in one"


@pytest.fixture(scope="module")
def measured():
    return kv.run(resolve("tiny"), 1, (1, 20), ("float16", "int8", "int4", "kivi4", "rot4"))


def test_formats_beside_outliers_of_keys(measured):
    """KIVI and a rotation say what their papers say: by three standard errors of the paired difference."""
    rows = {(r["format"], r["times"]): r for r in measured["rows"]}
    assert len(rows) == 10 and {r["tokens"] for r in measured["rows"]} == {measured["scored_tokens"]}
    assert rows["float16", 1]["kl"] < rows["int8", 1]["kl"] < rows["int4", 1]["kl"]
    assert rows["int4", 20]["kl"] > 10 * rows["int4", 1]["kl"] and rows["kivi4", 20]["kl"] < 1.2 * rows["kivi4", 1]["kl"]
    own, loud = measured["outliers"]
    for pair in ("rot4 - int4", "kivi4 - int4", "kivi4 - rot4"):
        value, error = loud["kl_difference"][pair]
        assert value < -3 * error < 0, pair
        a, b = pair.split(" - ")
        assert value == pytest.approx(rows[a, 20]["kl"] - rows[b, 20]["kl"])
    for found in (own, loud):
        assert np.mean(found["keys"]["4_bits"]["per_channel"]) < np.mean(found["keys"]["4_bits"]["per_token"])
    assert np.mean(loud["keys"]["largest_channel"]) > 2 * np.mean(own["keys"]["largest_channel"])
    for way in ("per_channel", "per_token"):
        np.testing.assert_allclose(loud["values"]["4_bits"][way], own["values"]["4_bits"][way], rtol=1e-3, err_msg="values stay")


def test_its_table_and_what_is_kept_of_it(measured):
    text = kv.table(measured)
    assert "a pair of channels of each key head 20 times as large" in text and "keys, 4 bits" in text
    assert json.loads(json.dumps(measured)) == measured
    lists = {"rows": ("format", "times"), "outliers": ("times",)}
    one, other = ({**measured, **{name: [r for r in measured[name] if r["times"] == t] for name in lists}} for t in (1, 20))
    both = joined(joined({}, one, ("documents",), lists, "kv.json"), other, ("documents",), lists, "kv.json")
    assert len(both[measured["model"]]["rows"]) == 10 and len(both[measured["model"]]["outliers"]) == 2


# --- activations × keys and values --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    return precision.run(resolve("tiny"), kvs=("float32", "int4", "kivi4"), documents=1, context=128, speed=False)


def test_each_row_stands_beside_exact_float32(table):
    config = read_config(resolve("tiny"))
    rows = {(r["activations"], r["kv"]): r for r in table["rows"]}
    assert len(rows) == 6 and table["types"] == ["Q8_0"], "tiny is of floats: its weights are quantized first"
    base = rows["exact", "float32"]
    assert (base["kl"], base["agreement"]) == (0, 1)
    assert 0 < rows["int8", "float32"]["kl"] < rows["exact", "int4"]["kl"], "int8 is nearer than four bits of keys and values"
    for (_, name), row in rows.items():
        parts = row["by_context"]
        assert sum(part["tokens"] for part in parts) == row["tokens"] == table["scored_tokens"]
        assert row["kl"] == pytest.approx(sum(part["kl"] * part["tokens"] for part in parts) / row["tokens"])
        assert [part["from"] for part in parts] == [0, 64]
        assert row["kv_bytes_per_token"] == kv_token_bytes(config, name) and row["weight_bytes"] == base["weight_bytes"]
        assert row["kv_window_bytes"] == kivi_window_bytes(config, name)
    assert 1.0 < base["weight_bytes"] / config.parameters() < 1.2, "8.5 bits a weight, and norms"


def test_its_text_says_what_is_measured(table):
    text = precision.table(table)
    assert "layers in Q8_0" in text and "TTFT" not in text and "KIVI keeps the last tokens in float16" in text


def test_speed_is_measured_beside_the_base_in_the_same_rounds(capsys):
    small = ["--documents", "1", "--context", "32", "--prompt-tokens", "8", "--batch", "1,2", "--rounds", "2", "--json"]
    assert main(["bench", "precision", "--kv", "float16", "--activations", "int8", "--backend", "numpy", *small]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert len(row["decode_tokens_per_s"]) == 2 and set(row["faster_than_base"]) == {"ttft", "1", "2"}
    low, high = row["ttft_s_spread"]
    assert 0 < low <= row["ttft_s"] <= high


def test_rows_joined_without_speed_have_empty_cells(table):
    speed = {"ttft_s": 0.5, "decode_tokens_per_s": [7.0, 8.0], "faster_than_base": {"ttft": 1.5, "1": 1.0, "16": 2.0}}
    rows = [table["rows"][0] | speed, *table["rows"][1:]]
    text = precision.table({**table, "batches": [1, 16], "rows": rows}).splitlines()
    assert "batch 16" in text[1] and "500.0 ms (1.50×)" in text[2] and "/s (" not in "".join(text[3:8])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--kv", "int3"], "no format is called 'int3'; did you mean 'int"),
        (["--activations", "int4"], "no format is called 'int4'; did you mean 'int8'"),
        (["--context", "999999"], "found 999,999: give a smaller --context"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, tmp_path, options, said):
    assert main(["bench", "precision", "--documents", "1", *options]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(MiniLLMError, match="expected a .gguf file, found a folder"):
        precision.run(tmp_path)


# --- the ceiling of 8-bit products --------------------------------------------------------------------------------------------


def test_8_bit_activations_have_a_ceiling_of_their_own():
    machine = Machine(1e10, 1e11, 2, "?", kernel_flops_per_s=2e11, int8_flops_per_s=3e11)
    assert [machine.peak(True), machine.peak(True, "int8"), machine.peak(False, "int8")] == [2e11, 3e11, 1e11]
    assert machine.better(replace(machine, int8_flops_per_s=4e11)).int8_flops_per_s == 4e11
    exact, int8 = (ceilings(SMALL, machine, 24, 8, 4, 8.5, "float16", kind) for kind in ("exact", "int8"))
    assert int8["prefill_tokens_per_s"] == pytest.approx(1.5 * exact["prefill_tokens_per_s"])


def test_exact_activations_are_a_peer_of_8_bit_ones_alone():
    assert peers([1], "exact", "int8") == ["exact"]
    with pytest.raises(MiniLLMError, match="exact"):
        peers([1], "exact", "exact")


def test_the_tours_last_rung_may_give_other_tokens():
    assert tour.same({"same_tokens": False, "activations": "int8"}) == "no: inexact"
    assert tour.same({"same_tokens": False, "activations": "exact"}) == "NO: a bug"
    rung = tour.LADDER[-1]
    assert (rung.activations, rung.kernels, rung.lesson) == ("int8", True, "08_activation_quantization")


def test_the_tour_climbs_it_where_asked(tmp_path, capsys, quick_machine):
    """Without --activations there are three rungs: test_01_inference_cli.py."""
    assert main(["tour", "--out", str(tmp_path), "--json", "--activations", "int8"]) == 0
    assert [r["activations"] for r in json.loads(capsys.readouterr().out)["rungs"]] == ["exact"] * 3 + ["int8"]
