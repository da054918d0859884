"""`minillm quantize --method`: what is in the file, tensor by tensor; what is said; mistakes, which leave nothing behind."""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
from walk_help import LLAMA, SHAPES, load, parameters, write

from minillm import LLM, SamplingParams
from minillm.calibration.collect import chunks_of
from minillm.calibration.layers import quantize_layers
from minillm.calibration.quantize_file import VECTORS, quantize_file
from minillm.calibration.recipe import METHODS, Recipe, types_with
from minillm.cli import main
from minillm.errors import MiniLLMError
from minillm.formats.gguf import open_gguf
from minillm.model.adapters import FIELDS
from minillm.model.transformer import Segment
from minillm.model.weights import LayerWeights
from minillm.quantization.affine import Grid, round_to_nearest
from minillm.quantization.gptq import gptq

TEXT = "Once upon a time there was a fox, and the fox had 3 friends: a bear, an owl and another fox. " * 9
CONFIG = replace(LLAMA, d_ff=128)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stories.txt").write_text(TEXT)
    write(tmp_path / "m.gguf", CONFIG)
    return tmp_path


def words(method, *more):
    text = ["--calibration", "stories.txt", "--context", "64", "--chunks", "4"] if METHODS.get(method) else []
    return ["quantize", "m.gguf", "new.gguf", "--method", method, *text, *more]


def dense(path):  # -> {name: float32}, of all tensors
    with open_gguf(path) as file:
        return {name: file.dequantize(name) for name in file.tensors}


def is_matrix(name):
    return name.startswith("blk.") and name.split(".")[2] in FIELDS and name.endswith("weight")


@pytest.mark.parametrize("options", [(2, 32, False), (3, 64, False), (4, 32, False), (4, 64, True), (8, 32, True)], ids=str)
def test_round_to_nearest_is_what_the_array_function_makes(folder, options):
    """Layers' matrices on the grid, embedding and head as the gguf package quantizes to Q8_0, vectors as they were."""
    bits, group, symmetric = options
    write(folder / "m.gguf", config := replace(CONFIG, tied=False))
    more = ["--bits", str(bits), "--group", str(group), *["--symmetric"] * symmetric]
    assert main(words("rtn", *more)) == 0
    for name, found in dense("new.gguf").items():
        expected = parameters(config)[name]
        if is_matrix(name):
            expected = round_to_nearest(expected, Grid(bits, group, symmetric)).dense()
        elif expected.ndim > 1:
            kind = gguf.GGMLQuantizationType.Q8_0
            expected = gguf.quants.dequantize(gguf.quants.quantize(expected, kind), kind)
        assert (found == expected).all(), name
    with open_gguf("new.gguf") as file:
        kinds = {name: info.type.name for name, info in file.tensors.items()}
        assert kinds["blk.1.ffn_down.weight"] == ("Q4_1" if (bits, group) == (4, 32) else f"INT{bits}_G{group}")
        assert kinds["token_embd.weight"] == kinds["output.weight"] == "Q8_0"
        assert {kinds[name] for name in kinds if "norm" in name} == {"F32"}


@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_writes_what_the_walk_makes(folder, act_order):
    assert main(words("gptq", "--bits", "3", "--group", "32", *["--act-order"] * act_order)) == 0
    model, tokenizer = load("m.gguf"), LLM("m.gguf", backend="numpy").tokenizer
    expected = {}

    def quantize(name, weights, inputs):
        expected[name] = gptq(weights, inputs.hessian, Grid(3, 32), act_order=act_order)
        return expected[name]

    list(quantize_layers(model, chunks_of(tokenizer, TEXT, 64, 4), quantize))
    found = dense("new.gguf")
    assert set(expected) == set(filter(is_matrix, found))
    for name, made in expected.items():
        assert (found[name] == made.dense()).all(), name


def test_the_file_says_how_it_was_made_and_runs(folder, capsys):
    assert main(words("gptq", "--bits", "3", "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    assert {key: said[key] for key in ("method", "bits", "group", "symmetric", "written", "calibration_tokens")} == {
        "method": "gptq", "bits": 3, "group": 64, "symmetric": False, "written": True, "calibration_tokens": 256,
    }  # fmt: skip
    assert set(said["output_error"]) == set(filter(is_matrix, said["types"])) and max(said["output_error"].values()) < 0.2
    with open_gguf("m.gguf") as source:
        kept = source.metadata.keys() - {"general.file_type"}  # of a mix of llama.cpp's
    with open_gguf("new.gguf") as file:
        about = {key: value for key, value in file.metadata.items() if key.startswith("minillm.")}
        assert about == {
            "minillm.quantization.method": "gptq", "minillm.quantization.bits": 3, "minillm.quantization.group": 64,
            "minillm.quantization.symmetric": False, "minillm.quantization.act_order": False,
            "minillm.quantization.calibration": "stories.txt", "minillm.quantization.calibration_tokens": 256,
        }  # fmt: skip
        assert file.metadata.keys() == kept | about.keys() | {"general.quantization_version"}
        assert said["bits_per_weight"] == pytest.approx(
            8 * sum(t.nbytes for t in file.tensors.values()) / sum(t.size for t in file.tensors.values())
        )
        assert {name: t.type.name for name, t in file.tensors.items()} == said["types"]
    assert len(LLM("new.gguf", backend="numpy").generate("Once", SamplingParams(max_tokens=4, temperature=0)).token_ids) == 4


def test_quantized_again_it_tells_of_the_last_time_and_warns(folder, capsys):
    assert main(words("gptq")) == 0
    (folder / "new.gguf").rename("m.gguf")
    assert main(words("rtn", "--bits", "8")) == 0
    assert "m.gguf was in INT4_G64 and Q8_0 already" in capsys.readouterr().err
    with open_gguf("new.gguf") as file:
        about = {key.rpartition(".")[2] for key in file.metadata if key.startswith("minillm.")}
        assert about == {"method", "bits", "group", "symmetric"} and file.metadata["minillm.quantization.method"] == "rtn"


def test_a_dry_run_needs_no_text_and_writes_nothing(folder, capsys):
    command = ["quantize", "m.gguf", "--method", "gptq", "--bits", "2", "--head-type", "f16", "--dry-run"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:1] == ["blk.0.ffn_down.weight"] and "INT2_G64" in line for line in lines)
    assert any(line.split()[:1] == ["token_embd.weight"] and "F16" in line for line in lines)
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] is False
    assert sorted(path.name for path in folder.iterdir()) == ["m.gguf", "stories.txt"]


def test_a_mean_error_and_the_worst_are_printed(folder, capsys):
    assert main(words("gptq", "--bits", "2")) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("layer error") and "on average, most in blk." in last


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_method_writes_every_shape(folder, shape, method):
    """Vectors too: they are float32, and what AWQ changes of them is in the file, so both sides of a fold are."""
    pytest.importorskip({"awq": "minillm.calibration.folding", "hqq": "minillm.quantization.hqq"}.get(method, "minillm"))
    write(folder / "m.gguf", config := SHAPES[shape])
    assert main(words(method, "--group", "32", "--bits", "8")) == 0
    found, before = load("new.gguf"), load("m.gguf")
    ids = list(TEXT[:90].encode())
    was, is_ = (model.hidden([Segment(ids, 0, model.new_cache())])[0] for model in (before, found))
    assert np.square(is_ - was).sum() < 1e-2 * np.square(was).sum()
    assert found.config == replace(config, norm_eps=found.config.norm_eps, rope_base=found.config.rope_base)


def test_every_vector_of_a_layer_has_a_name_in_the_file():
    fields = set(LayerWeights.__slots__)
    assert fields == set(FIELDS.values()) | set(VECTORS.values())


def test_progress_adds_up_to_all_weights_but_the_layers_vectors(folder):
    done = []
    with open_gguf("m.gguf") as source:
        quantize_file(source, "new.gguf", Recipe("rtn", Grid(4, 32)), progress=done.append)
        vectors = sum(t.size for name, t in source.tensors.items() if name.startswith("blk.") and len(t.shape) == 1)
        assert sum(done) == sum(t.size for t in source.tensors.values()) - vectors


def test_a_layer_waits_no_longer_than_its_tensors_are_written(folder):
    """The order of the file is that of the walk, whatever the order of the source."""
    with open_gguf("m.gguf") as source:
        source.tensors = dict(sorted(source.tensors.items(), reverse=True))
        names = list(types_with(Recipe("rtn", Grid(4, 32)), source))
    layers = [int(name.split(".")[1]) if name.startswith("blk.") else -1 for name in names]
    assert layers == sorted(layers) and set(layers) == {-1, 0, 1}


@pytest.mark.parametrize("where", ["blk.1.ffn_down.weight", "blk.1.ffn_norm.weight", "token_embd.weight", "blk.0.attn_q.weight"])
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_weights_that_are_not_finite_are_named_and_the_old_file_stays(folder, capsys, method, where):
    """Wherever they are: at the end of the last layer too, when nearly all of the new file is written."""
    (folder / "new.gguf").write_text("old")
    raw = bytearray((folder / "m.gguf").read_bytes())
    with open_gguf("m.gguf") as source:
        offset = source.tensors[where].offset
    raw[offset : offset + 4] = np.float32(np.nan).tobytes()
    (folder / "m.gguf").write_bytes(raw)
    with np.errstate(all="ignore"):
        assert main(words(method)) == 2
    err = capsys.readouterr().err
    if method == "rtn" or "norm" not in where:
        assert where in err
    assert err.startswith("minillm: m.gguf: ") and err.count("\n") == 1
    assert "finite" in err
    assert (folder / "new.gguf").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == ["m.gguf", "new.gguf", "stories.txt"]


MISTAKES = [
    ([], "one of two ways is needed: --type q4_k_m, a mix of types, or --method gptq"),
    (["--method", "rtn", "--type", "q4_0"], "one of two ways is needed"),
    (["--method", "gptk"], "no method is called 'gptk'; did you mean 'gptq'"),
    (["--method", "gptq"], "gptq learns from a text what matrices are fed: --calibration FILE is missing"),
    (["--method", "rtn", "--calibration", "stories.txt"], "--calibration goes with gptq and awq: rtn looks at no text"),
    (["--method", "RTN", "--chunks", "3"], "--chunks goes with gptq and awq: RTN looks at no text"),
    (["--method", "rtn", "--act-order"], "gptq alone has an order of columns, found act-order with rtn"),
    (["--method", "hqq", "--symmetric"], "hqq moves the minimum of a group"),
    (["--method", "rtn", "--bits", "5"], "an affine grid has 2, 3, 4 or 8 bits, found 5"),
    (["--method", "rtn", "--group", "48"], "groups of a file have 32, 64 or 128 weights, found 48"),
    (["--method", "rtn", "--head-type", "q9"], "no type for the head is called 'Q9'"),
    (["--method", "rtn", "--imatrix", "m.gguf"], "--imatrix goes with --type"),
    (["--type", "q4_0", "--bits", "3"], "--bits goes with --method, found it with --type q4_0"),
    (["--type", "q4_0", "--act-order"], "--act-order goes with --method, found it with --type q4_0"),
    (["--method", "rtn", "--group", "128"],
     "'blk.0.attn_q.weight': 128 weights do not fill rows of 64, 64 are left over; of groups, 32 and 64 would fill all"),
    (["--method", "rtn", "--head-type", "q4_k"], "256 weights do not fill rows of 64, 64 are left over; choose another type for"),
    (["--method", "gptq", "--calibration", "none"], "none: the corpus cannot be read"),
    (["--method", "gptq", "--calibration", "empty"], "empty: the corpus must hold at least 1 character of text"),
    (["--method", "gptq", "--calibration", "m.gguf"], "the corpus must be UTF-8"),
    (["--method", "gptq", "--calibration", "short"], "the text has 5 tokens, a chunk takes 128"),
    (["--method", "gptq", "--calibration", "stories.txt", "--context", "32", "--chunks", "3"],
     "calibration needs at least 128 tokens, as many as the widest matrix has columns; found 96"),
    (["--method", "gptq", "--calibration", "stories.txt", "--context", "0"], "--context must be at least 1, found 0"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), MISTAKES, ids=[" ".join(options) for options, _ in MISTAKES])
def test_a_mistake_is_one_line(folder, capsys, options, says):
    (folder / "short").write_text("Once.")
    (folder / "empty").write_text("")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(["quantize", "m.gguf", "new.gguf", *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith("minillm: ") and err.count("\n") == 1 and says in err, err
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("out", ["m.gguf", "stories.txt"])
def test_neither_model_nor_text_is_written_over(folder, capsys, out):
    before = (folder / out).read_bytes()
    command = words("gptq")
    command[2] = out
    assert main(command) == 2
    assert f"{out}: is the file that is read" in capsys.readouterr().err
    assert (folder / out).read_bytes() == before


def test_control_c_in_the_walk_leaves_nothing(folder, monkeypatch):
    calls = []

    def stop(*args, **options):
        calls.append(args)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return round_to_nearest(args[0], Grid(4, 64))

    monkeypatch.setattr("minillm.calibration.quantize_file.gptq", stop)
    assert main(words("gptq")) == 130
    assert sorted(path.name for path in folder.iterdir()) == ["m.gguf", "stories.txt"]


def test_a_grid_of_whole_rows_is_no_files():
    with pytest.raises(MiniLLMError, match="groups of a file have 32, 64 or 128 weights, found None"):
        Recipe("rtn", Grid(4, None))
