"""The table methods × bits: which rows it has, what is in their files, and that its figures are those of the files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from script_help import script

from minillm import LLM
from minillm.bench import kept, quantization, quantized_files
from minillm.bench.quality import document_windows, score_windows, text_ids
from minillm.bench.quantized_files import ALL, Way, by_type, fitting, holds_the_source, ways
from minillm.calibration.recipe import is_layers_matrix
from minillm.calibration.texts import Texts
from minillm.cli import main
from minillm.errors import MiniLLMError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import write_gguf
from minillm.formats.requantize import requantize
from minillm.metrics.perplexity import mean
from minillm.model.random_model import TINY, byte_metadata, random_tensor, tensor_shapes
from minillm.model.write import model_metadata
from minillm.quantization.affine import Grid, round_to_nearest

SMALL = replace(TINY, n_layers=1, d_model=64, n_heads=2, n_kv_heads=1, d_ff=128, context_length=512)
WORDS = "A fox went to the river, and the river said no. The fox came back with a boat and a friend. "


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Texts of a few thousand bytes, which are tokens to these models."""
    texts = Texts([WORDS * 12], [WORDS[::-1] * 9, WORDS[1:60], "A"])
    for module in (quantization, quantized_files):
        monkeypatch.setattr(module, "story_texts", lambda: texts)
    monkeypatch.setattr(quantized_files, "CHUNKS", 2)
    monkeypatch.setattr(quantization, "CONTEXT", 128)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A random model in F32, whose weights are large enough to say something."""
    out = tmp_path_factory.mktemp("table") / "small.gguf"
    tensors = {name: 3 * random_tensor(name, shape, 0) for name, shape in tensor_shapes(SMALL).items()}
    write_gguf(out, model_metadata(SMALL, byte_metadata(SMALL.vocab_size)), tensors)
    return out


def test_there_is_a_row_for_each_method_and_bits_that_it_can_do(path):
    rows = ways(ALL, [8, 4, 3, 2], 64)
    grid = {(m, b) for m in ("rtn", "hqq", "gptq", "awq", "sym") for b in (8, 4, 3, 2)}
    typed = {("q", 8), ("q", 4), ("q_1", 4), ("k", 4), ("k", 3), ("k", 2), ("fp8", 8)}
    typed |= {(m, 4) for m in ("iq4_nl", "nf4", "mxfp4", "nvfp4")}
    assert {(way.method, way.bits) for way in rows} == grid | typed and len(rows) == len(grid | typed)
    with open_gguf(path) as source:
        left = {way.type for way in rows} - {way.type for way in fitting(rows, source)}
        assert left == {"Q4_K", "Q3_K", "Q2_K"}, "blocks of 256 do not fill rows of 64"
        assert not any(way.type.endswith("G128") for way in fitting(ways(["rtn"], [4], 128), source))
    with pytest.raises(MiniLLMError, match="no method of the table is called 'gtpq'"):
        ways(["gtpq"], [4], 64)


@pytest.mark.parametrize("kind", ["NF4", "NVFP4", "FP8_E4M3", "Q4_1", "INT3_G64"])
def test_a_file_has_the_layers_matrices_in_the_type_and_all_else_as_it_was(path, tmp_path, kind):
    out = tmp_path / "out.gguf"
    with open_gguf(path) as source:
        by_type(kind, source, out)
        with open_gguf(out) as made:
            for name, info in source.tensors.items():
                if is_layers_matrix(name):
                    assert made.tensors[name].type.name == kind and made.tensors[name].shape == info.shape
                else:
                    assert made.tensors[name].type == info.type and (made.raw(name) == source.raw(name)).all()
            exact = BLOCK_TYPES[kind].bits_per_weight
            weights = sum(info.size for info in made.tensors.values() if is_layers_matrix(info.name))
            scales = sum(info.size for name, info in made.tensors.items() if name.endswith(".scale"))
            assert (scales > 0) == (kind in ("NVFP4", "FP8_E4M3"))
            assert quantization.about(Way("m", 4, kind, by_type), out)["bits_per_weight"] == exact + 32 * scales / weights


def test_rows_that_hold_the_grid_of_the_source_are_marked(path, tmp_path):
    out = tmp_path / "q4_1.gguf"
    with open_gguf(path) as source:
        requantize(source, out, "q4_1")
        assert not any(holds_the_source(way, source) for way in ways(ALL, [8, 4], 32))
    with open_gguf(out) as source:
        marked = {(way.method, way.bits, way.type) for way in ways(ALL, [8, 4], 32) if holds_the_source(way, source)}
        methods = ("rtn", "hqq", "gptq", "awq", "sym")
        assert marked == {(m, 4, "Q4_1") for m in (*methods, "q_1")} | {(m, 8, "INT8_G32") for m in methods} | {("q", 8, "Q8_0")}
        assert not any(holds_the_source(way, source) for way in ways(ALL, [4], 64) if way.type != "Q4_1")


def test_figures_are_those_of_the_weights_and_differences_are_paired(path, tmp_path):
    result = quantization.run(path, ["rtn", "nf4", "fp8", "gptq", "hqq", "awq", "sym"], [8, 3], 64, speed=False)
    rows = {(r["method"], r["bits"]): r for r in result["rows"]}
    assert set(rows) == {(m, b) for m in ("rtn", "gptq", "hqq", "awq", "sym") for b in (8, 3)} | {("fp8", 8)}
    assert rows["sym", 3]["kl"] > rows["rtn", 3]["kl"]
    original = LLM(path, "numpy")
    texts = [text_ids(original.tokenizer, text + "<|endoftext|>") for text in (WORDS[::-1] * 9, WORDS[1:60], "A")]
    own = {}
    for b in (8, 3):
        with open_gguf(path) as file:
            tensors = {name: file.dequantize(name) for name in file.tensors}
            for name in filter(is_layers_matrix, tensors):
                tensors[name] = round_to_nearest(tensors[name], Grid(b, 64)).dense()
            write_gguf(tmp_path / f"{b}.gguf", file.verbatim(), tensors)
        (own[b],) = score_windows([LLM(tmp_path / f"{b}.gguf", "numpy")], document_windows(texts, 128), original)
        assert rows["rtn", b]["kl"] == pytest.approx(own[b].quality.kl, rel=1e-4)
        assert rows["rtn", b]["perplexity"] == pytest.approx(own[b].quality.perplexity, rel=1e-6)
        assert "kl_less_rtn" not in rows["rtn", b]
    first = sum(len(text) - -(-len(text) // 128) for text in texts)  # of each window, the first token is not scored
    assert result["scored_tokens"] == len(own[3].losses) == first and rows["rtn", 3]["kl"] > 20 * rows["rtn", 8]["kl"] > 0
    for (method, b), row in rows.items():
        if method != "rtn":
            assert row["kl_less_rtn"] == pytest.approx(row["kl"] - rows["rtn", b]["kl"], abs=1e-9)
    a, b = np.array([1.0, 5, 9]), np.array([1.5, 5.5, 9.5])
    found = [{"method": "rtn", "bits": 4}, {"method": "x", "bits": 4}]
    quantization.beside_rtn(found, [Kept(b), Kept(a)])
    assert (found[1]["kl_less_rtn"], found[1]["kl_less_rtn_error"]) == (-0.5, 0) and mean(a).error > 2, "paired, not apart"


class Kept:
    def __init__(self, kl):
        self.kl = kl


def test_few_files_at_a_time_are_as_good_as_all(path, monkeypatch, tmp_path):
    files = []
    for kind in ("Q4_0", "NF4", "MXFP4"):
        files.append(tmp_path / f"{kind}.gguf")
        with open_gguf(path) as source:
            by_type(kind, source, files[-1])
    original, ids = LLM(path, "numpy"), [np.arange(3, 203), np.arange(7, 19)]
    together = quantization.judged(files, ids, original)
    monkeypatch.setattr(quantization, "ROOM", 1)
    apart = quantization.judged(files, ids, original)
    assert len(together) == len(apart) == 4 and (together[0].kl == 0).all()
    for a, b in zip(together, apart, strict=True):
        assert (a.kl == b.kl).all() and (a.losses == b.losses).all()


def test_the_command_prints_the_table_and_the_object(path, tmp_path, capsys):
    source = tmp_path / "q4_1.gguf"
    with open_gguf(path) as file:
        requantize(file, source, "q4_1")
    words = ["bench", "quantization", "--model", str(source), "--methods", "rtn,q_1,nf4", "--bits", "4", "--documents", "2"]
    assert main([*words, "--no-speed", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    rows = {r["method"]: r for r in result["rows"]}
    assert (rows["q_1"]["kl"], rows["q_1"]["agreement"], rows["q_1"]["holds_the_source"]) == (0, 1, True)
    assert rows["nf4"]["kl"] > 0 and not rows["nf4"]["holds_the_source"] and result["base"]["type"] == "Q4_1"
    assert rows["rtn"]["bits_per_weight"] == 4.5 and rows["nf4"]["bits_per_weight"] == 4.25
    lines = err.splitlines()
    assert any(line.startswith("q_1 *") for line in lines) and any(line.startswith("nf4  ") for line in lines)
    assert any("contains Q4_1, which the source was rounded to" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "gtpq"], "no method of the table is called 'gtpq'"),
        (["--bits", "5"], "2, 3, 4 or 8 bits, found 5"),
        (["--bits", "four"], "--bits takes whole numbers"),
        (["--group", "48"], "groups of a file have 32, 64 or 128 weights, found 48"),
        (["--documents", "0"], "--documents must be at least 1, found 0"),
    ],
)
def test_what_has_no_table_is_one_line(path, capsys, words, said):
    assert main(["bench", "quantization", "--model", str(path), "--methods", "rtn", "--bits", "4", "--no-speed", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err


def test_kept_figures_are_joined_by_bits_and_never_mixed():
    our, made = script("results/quantization.py"), {"model": "m", "parameters": 9, "group": 64, "context": 8, "documents": 8}

    def joined(kept_, result):
        return kept.joined(kept_, result, our.SAME, our.LISTS, "quantization.json")

    four = made | {"scored_tokens": 70, "base": {"file_bytes": 1}, "rows": [{"method": "rtn", "bits": 4, "kl": 0.123456789}]}
    three = four | {"base": {"kl": 0}, "rows": [{"method": "rtn", "bits": 3, "kl": 2.0}]}
    found = joined(joined({}, four), three)
    assert [(r["bits"], r["kl"]) for r in found["m"]["rows"]] == [(4, 0.123457), (3, 2.0)]
    assert found["m"]["base"] == {"file_bytes": 1, "kl": 0}
    again = joined(found, four | {"rows": [{"method": "rtn", "bits": 4, "kl": 0.5}]})
    assert [(r["bits"], r["kl"]) for r in again["m"]["rows"]] == [(4, 0.5), (3, 2.0)]
    with pytest.raises(SystemExit, match="scored_tokens was 70, now 71: another measurement; .* from quantization.json"):
        joined(found, four | {"scored_tokens": 71})
