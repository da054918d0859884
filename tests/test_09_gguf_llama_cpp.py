"""llama.cpp as witness: it reads our quantized files as we do, quantizes ours to the same types, and rounds no better than we do.

What was measured with both engines is in golden/quantized.json and quantized_orders.json, by the scripts beside them; here it is
held to its bounds. And one model of random weights is quantized anew, and compared with what llama.cpp said of such a file.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from golden import mix_models, quantized_models, quantized_orders

from minillm.calibration.collect import chunks_of
from minillm.calibration.importance import importance_matrix
from minillm.formats.gguf import open_gguf
from minillm.formats.imatrix import ImportanceMatrix
from minillm.formats.mixes import MIXES
from minillm.formats.requantize import requantize

FOLDER = Path(__file__).parent / "golden"
RECORD = json.loads((FOLDER / "quantized.json").read_text())
ORDERS = json.loads((FOLDER / "quantized_orders.json").read_text())
QUICK = ("f16", "q8_0", "mxfp4", "q2_k", "q3_k_m", "q4_k_m", "iq4_nl")  # the other mixes have no type that these have not
ROWS = [(model, file, row) for model, rows in RECORD["models"].items() for file, row in rows["files"].items()]
K_TYPES = ("q2_k", "q3_k_s", "q4_k_s", "q5_k_s", "q6_k", "iq4_nl")


def test_every_mix_was_measured_on_every_model():
    assert set(RECORD["models"]) == set(quantized_models.MODELS)
    assert all(set(rows["files"]) == set(quantized_models.files_of(name)) for name, rows in RECORD["models"].items())
    assert {row[1].partition("+")[0] for row in ROWS if row[0] == "smollm2-135m"} == set(MIXES)
    assert {file.partition("+")[0] for file in quantized_models.FILES} == set(MIXES) == set(mix_models.MIXES)
    assert sum(rows["tokens"] for rows in RECORD["models"].values()) > 3000
    assert ORDERS.keys() == set(quantized_orders.SEARCHED)


@pytest.mark.parametrize(("model", "file", "row"), ROWS, ids=[f"{model} {file}" for model, file, _ in ROWS])
def test_the_engines_agree_on_our_files_and_on_llama_cpps(model, file, row):
    most = 1e-3 if file in ("f32", "f16", "bf16") else 1e-2
    assert row["types_equal"] and row["kl_of_engines"] <= most and row["kl_of_engines_on_theirs"] <= most
    assert row["among_two_best"] >= 0.99 and row["among_two_best_on_theirs"] >= 0.99


@pytest.mark.parametrize("file", ORDERS)
def test_our_rounding_hurts_no_more_than_llama_cpps(file):
    """KL divergence to F16, the mean over six draws of the rounding."""
    ours, theirs = np.mean(ORDERS[file]["ours"]), np.mean(ORDERS[file]["llama_cpp"])
    assert len(ORDERS[file]["ours"]) == len(ORDERS[file]["llama_cpp"]) == quantized_orders.ORDERS
    assert ours <= 1.05 * theirs, f"{ours:.5f}, llama.cpp {theirs:.5f}"


@pytest.mark.parametrize("file", [file for file in quantized_models.FILES if file not in ORDERS])
def test_what_is_not_searched_is_equal(file):
    for model, rows in RECORD["models"].items():
        row = rows["files"][file]
        assert row["kl_to_f16"] == pytest.approx(row["kl_to_f16_of_theirs"], rel=0.05, abs=1e-12), model


@pytest.mark.parametrize("file", quantized_orders.STEERED)
def test_importances_at_the_wrong_columns_hurt(file):
    """In the mean of six draws; least where a mix spares the touchy matrices anyway."""
    assert np.mean(ORDERS[file]["ours"]) < np.mean(ORDERS[file]["strange"])


# --- anew -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The F16 file of the model whose best tokens are on record."""
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    quantized_models.write_base(quantized_models.KEPT, path)
    return path


@pytest.mark.parametrize("mix", [pytest.param(mix, marks=[pytest.mark.slow] * (mix not in QUICK)) for mix in RECORD["two_best"]])
def test_our_first_choice_is_among_llama_cpps_two_best(tmp_path, base, mix):
    with open_gguf(base) as source:
        requantize(source, tmp_path / "new.gguf", mix)
    ours = quantized_models.our_logits(tmp_path / "new.gguf", RECORD["prompts"]).argmax(axis=1)
    best = np.array(RECORD["two_best"][mix])
    assert best.shape == (len(ours), 2)
    share = (ours[:, None] == best).any(axis=1).mean()
    assert share >= 0.99, f"{share:.1%} of {len(ours)} positions"


@pytest.fixture(scope="module")
def imatrix(base):
    from minillm import LLM

    llm = LLM(base, backend="numpy")
    return importance_matrix(llm.transformer, chunks_of(llm.tokenizer, "once upon a time there was a fox. " * 30, 64, 8), 64)


def test_an_imatrix_changes_bytes_in_every_k_type(tmp_path, base, imatrix):
    """Of a matrix of that very type, and in no vector; a head and an embedding that it does not know stay as they are."""
    with open_gguf(base) as source:
        for mix in K_TYPES:
            requantize(source, tmp_path / "plain.gguf", mix)
            requantize(source, tmp_path / "steered.gguf", mix, imatrix)
            with open_gguf(tmp_path / "plain.gguf") as plain, open_gguf(tmp_path / "steered.gguf") as steered:
                changed = {name for name in plain.tensors if plain.raw(name).tobytes() != steered.raw(name).tobytes()}
                assert changed == set(imatrix.sums), mix
                types = {steered.tensors[name].type.name for name in changed}
                assert MIXES[mix].type in types, mix


def test_importances_at_the_wrong_columns_hurt_anew(tmp_path, base, imatrix):
    """Of columns that differ: the inputs of one matrix in ten count a hundred times as much."""
    rng = np.random.default_rng(1)
    with open_gguf(base) as source:
        name = "blk.1.ffn_down.weight"
        weights = source.dequantize(name)
        sums = np.where(rng.random(weights.shape[1]) < 0.1, 100, 1).astype(np.float32)[None]
        errors = []
        for importance in (sums, rng.permuted(sums, axis=1)):
            steered = ImportanceMatrix(imatrix.sums | {name: importance}, imatrix.counts | {name: np.ones(1, np.float32)})
            requantize(source, tmp_path / "new.gguf", "q3_k_s", steered)
            with open_gguf(tmp_path / "new.gguf") as new:
                errors.append(float((sums * (new.dequantize(name) - weights) ** 2).sum()))
    assert errors[0] < 0.8 * errors[1]
