"""minillm inspect: blocks taken apart against the decoders, sections against the gguf package, what runs against what loads."""

import json
import re
import shutil
import subprocess
import sys
import tracemalloc

import gguf as oracle
import numpy as np
import pytest
from fuzz_files import CONFIG, parameters
from gguf_bytes import build, entry, string, tensor
from gguf_files import ARRAY, METADATA, random_blocks, split_file, write_gguf, write_specimen
from golden import tiny_models
from our_blocks import OURS, UNPACKED, write_blocks
from test_09_gguf import check_bits
from test_09_gguf_files import odd_file, with_type

from minillm import LLM
from minillm.backends import BACKENDS, PACKED, get_backend
from minillm.cli import contents, main
from minillm.errors import GGUFError, MiniLLMError
from minillm.formats import gguf_plot
from minillm.formats.anatomy import ANATOMY, fields_of, walk
from minillm.formats.blocks import BLOCK_TYPES, dequantize
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_layout import bytes_by_role, role_of, sections
from minillm.formats.gguf_write import write_gguf as write_ours
from minillm.model.random_model import byte_metadata
from minillm.model.runs import form, runs
from minillm.model.weights import StoredTensor
from minillm.model.write import model_metadata


def facts(capsys, *arguments):
    assert main(["inspect", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


# --- one block, byte by byte ------------------------------------------------------------------------------------------------


def blocks_of(type, count, finite=True):  # -> (count, bytes) uint8
    return random_blocks(type.name, (count, type.weights), np.random.default_rng(type.id), finite).reshape(count, type.bytes)


def test_every_type_that_is_decoded_has_an_anatomy():
    assert set(ANATOMY) == set(BLOCK_TYPES)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_the_fields_are_the_block_from_its_first_byte_to_its_last(name):
    at = 0
    for field in fields_of(BLOCK_TYPES[name]):
        assert field.offset == at and field.bytes > 0 and field.says
        at += field.bytes
    assert at == BLOCK_TYPES[name].bytes


def computed(formula, values, weights):  # -> (weights,): the line that people are shown, as Python computes it
    names = {}
    for name, numbers in values.items():
        assert weights % len(numbers) == 0, f"{name} has {len(numbers)} values for {weights} weights"
        wide = numbers if numbers.dtype == np.float64 else numbers.astype(np.float32)
        names[name] = np.repeat(wide, weights // len(numbers))
    return np.asarray(eval(formula.replace("·", "*"), {"__builtins__": {}}, names), np.float32)


@pytest.mark.parametrize("finite", [True, False], ids=["finite", "any_bytes"])
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_the_line_that_is_shown_gives_the_decoders_weights_bit_for_bit(name, finite):
    type = BLOCK_TYPES[name]
    with np.errstate(all="ignore"):
        for block in blocks_of(type, 40, finite):
            values = {}
            for field in fields_of(type):
                values |= field.read(block[None, field.offset : field.offset + field.bytes])
            found = computed(ANATOMY[name][0], values, type.weights)
            check_bits(found, dequantize(block, type, (type.weights,)), f"{name}: {ANATOMY[name][0]}")


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_a_field_reads_its_own_bytes_alone_and_all_of_them(name):
    """Each bit of a field changes one of its values, or more; so no byte is passed over."""
    type = BLOCK_TYPES[name]
    with np.errstate(all="ignore"):
        for field in fields_of(type):
            raw = np.full((1, field.bytes), 0x35, np.uint8)
            before = field.read(raw)
            for bit in range(8 * field.bytes):
                turned = raw.copy()
                turned[0, bit // 8] ^= 1 << bit % 8
                after = field.read(turned)
                assert any((before[key] != after[key]).any() for key in before), f"{name}.{field.name}: bit {bit} says nothing"


@pytest.mark.parametrize("name", ["Q4_0", "Q3_K", "BF16", "IQ4_NL"])
def test_a_walk_says_where_the_block_is(tmp_path, name):
    type, rows, columns = BLOCK_TYPES[name], 3, 512
    raw = random_blocks(name, (rows, columns), np.random.default_rng(1))
    path = write_gguf(tmp_path / "a.gguf", [("x", np.zeros(64, np.uint8), "F32"), ("w", raw, name)], METADATA)
    weights = dequantize(raw.reshape(-1), type, (rows, columns))
    count = rows * columns // type.weights
    with open_gguf(path) as file:
        for index in (0, 1, columns // type.weights, count - 1):
            found = walk(file, "w", index)
            row, (first, last) = found.row, found.columns
            assert (found.index, found.blocks, last - first + 1) == (index, count, type.weights)
            check_bits(found.weights, weights[row, first : last + 1], f"block {index}")
            block = path.read_bytes()[found.offset :][: type.bytes]
            assert b"".join(raw for _, raw, _ in found.fields) == block == raw.reshape(-1, type.bytes)[index].tobytes()
        for index in (-1, count, 2**70):
            with pytest.raises(GGUFError, match=f"tensor 'w' has blocks 0 to {count - 1:,}, found {index:,}"):
                walk(file, "w", index)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_the_command_shows_a_block_of_every_type(tmp_path, capsys, name):
    type = BLOCK_TYPES[name]
    raw = random_blocks(name, (2, 512), np.random.default_rng(3))
    path = tmp_path / "a.gguf"
    write_blocks(path, name, raw, (2, 512)) if name in (*OURS, *UNPACKED) else write_gguf(path, [("w", raw, name)])
    assert main(["inspect", str(path), "--block", "w", "1"]) == 0
    text = capsys.readouterr().out
    for field in fields_of(type):
        assert f"\n{field.name}: {field.says}\n" in text
    block = raw.reshape(-1, type.bytes)[1]
    shown = "".join("".join(line.split()[1:]) for line in text.splitlines() if line.startswith("  ") and "=" not in line
                    and all(len(word) == 2 for word in line.split()[1:]) and line[2:7].strip().isdigit())  # fmt: skip
    assert bytes.fromhex(shown) == block.tobytes(), "the bytes of the block, in order"
    found = facts(capsys, path, "--block", "w", "1")["block"]
    assert "".join(field["hex"] for field in found["fields"]) == block.tobytes().hex()
    check_bits(np.array(found["weights"], np.float32), dequantize(block, type, (type.weights,)), name)
    assert found["formula"] == ANATOMY[name][0] and len(found["weights"]) == type.weights


@pytest.mark.parametrize(("block", "says"), [
    (["w", "one"], "--block takes a tensor's name and the number of a block, found 'one'"),
    (["w", "1"], "tensor 'w' has blocks 0 to 0, found 1"), (["v", "0"], "no tensor 'v' among its 2"),
    (["i", "0"], "blocks of type IQ2_XXS are not taken apart; these are: F32"),
])  # fmt: skip
def test_a_block_that_is_not_there_is_one_line(tmp_path, capsys, block, says):
    odd = random_blocks("IQ2_XXS", (1, 256), np.random.default_rng(1))
    path = write_gguf(tmp_path / "a.gguf", [("w", np.zeros(34, np.uint8), "Q8_0"), ("i", odd, "IQ2_XXS")])
    assert main(["inspect", str(path), "--block", *block]) == 2
    said = capsys.readouterr()
    assert says in said.err and said.err.count("\n") == 1 and said.out == ""


# --- what lies where ------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, tiny_path):
    """A whole file, one with an odd end, one without tensors, a split one."""
    odd = tmp_path / "odd.gguf"
    odd.write_bytes(build([entry("k", 8, string("v"))], [tensor("b", offset=256), tensor("a")], data=500))
    return [tiny_path, odd, write_specimen(tmp_path / "s.gguf"), write_gguf(tmp_path / "none.gguf", metadata=METADATA),
            split_file(tiny_path, tmp_path / "m", 7, small_first=True)[1]]  # fmt: skip


def test_the_sections_of_a_file_leave_no_byte_out(files):
    for path in files:
        with open_gguf(path) as file:
            at = {}
            for section in sections(file):
                assert section.begin == at.get(section.part, 0) and section.nbytes > 0, f"{path}: {section}"
                at[section.part] = section.end
            assert list(at.values()) == [part.path.stat().st_size for part in file.parts]
            named = {s.name for s in sections(file) if s.tensor}
            assert named == set(file.tensors)


def test_keys_and_tensors_are_where_the_gguf_package_finds_them(tmp_path):
    path = write_specimen(tmp_path / "a.gguf", alignment=64)
    reader = oracle.GGUFReader(path)
    begins = {name: field.offset for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    begins |= {t.name: t.data_offset for t in reader.tensors}
    with open_gguf(path) as file:
        assert {s.name: s.begin for s in sections(file) if s.name} == begins
        [table] = [s for s in sections(file) if s.kind == "table"]
        assert table.begin == min(t.field.offset for t in reader.tensors)


@pytest.mark.parametrize(("name", "role"), [
    ("token_embd.weight", "embedding"), ("output.weight", "head"), ("output_norm.weight", "norms"), ("rope.weight", "other"),
    ("blk.3.attn_q.weight", "attention"), ("blk.3.attn_output.bias", "attention"), ("blk.3.attn_q_norm.weight", "norms"),
    ("blk.3.attn_norm.weight", "norms"), ("blk.12.ffn_gate_exps.weight", "feed-forward"), ("blk.1.ffn_norm.weight", "norms"),
])  # fmt: skip
def test_a_tensors_name_tells_its_role(name, role):
    assert role_of(name) == role


def test_roles_and_types_and_sections_add_up(files, capsys):
    for path in files:
        found = facts(capsys, path)
        tensors = sum(row["bytes"] for row in found["types"].values())
        assert tensors == sum(found["roles"].values()) == sum(p["tensor_bytes"] for p in found["parts"]) == found["tensor_bytes"]
        for p in found["parts"]:
            sizes = ("header_bytes", "metadata_bytes", "tensor_table_bytes", "padding_bytes", "tensor_bytes")
            assert sum(p[key] for key in sizes) == p["bytes"]
        assert sum(p["bytes"] for p in found["parts"]) == found["file_bytes"]
        if found["weights"]:
            assert found["file_bits_per_weight"] == 8 * found["file_bytes"] / found["weights"] > found["bits_per_weight"]
            shares = sum(row["bits_per_weight"] * row["weights"] for row in found["types"].values())
            assert shares == pytest.approx(found["bits_per_weight"] * found["weights"])


def test_a_split_model_is_shown_as_one_with_its_files(files, capsys, tiny_path):
    path, whole = files[-1], facts(capsys, tiny_path)
    found = facts(capsys, path)
    assert found["metadata"] == whole["metadata"] and found["weights"] == whole["weights"]
    assert [t["name"] for t in found["tensors"]] == [t["name"] for t in whole["tensors"]]
    assert {t["part"] for t in found["tensors"]} == {1, 2, 3} and found["parts"][0]["tensors"] == 0
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "in 4 files" in text and all(f"m-0000{i}-of-00004.gguf" in text for i in (1, 2, 3, 4))


def test_an_unknown_type_is_listed_with_what_can_be_known(tmp_path, capsys):
    path = odd_file(tmp_path / "a.gguf")
    row = facts(capsys, path)["types"]["unknown 57"]
    assert row == {"tensors": 1, "weights": 165, "bytes": 192, "known": False, "bits_per_weight": 8 * 192 / 165}
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "at most 9.309" in text and "unknown 57: not decoded here, 1 tensors, such as odd" in text
    assert main(["inspect", str(path), "--block", "odd", "0"]) == 2
    assert "blocks of type unknown 57 are not taken apart" in capsys.readouterr().err


# --- the picture ----------------------------------------------------------------------------------------------------------


def test_a_picture_is_drawn_of_every_file(files, tmp_path, monkeypatch, capsys, recwarn):
    monkeypatch.chdir(tmp_path)
    for path in [*files[1:], odd_file(tmp_path / "unknown.gguf")]:
        found = facts(capsys, path, "--plot")
        assert found["plot"] == f"{path.stem}.png" and (tmp_path / found["plot"]).read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", str(files[0]), "--plot", "here.png"]) == 0 and (tmp_path / "here.png").exists()
    assert capsys.readouterr().out == "wrote here.png\n"
    assert not recwarn.list, [str(w.message) for w in recwarn.list]


def test_the_map_has_every_role_at_its_place(files):
    from minillm import plots

    with open_gguf(files[0]) as file:
        fig, (axes, _) = plots.figure(2)
        gguf_plot.draw_map(axes, file)
        role, most = next(iter(bytes_by_role(file).items()))
        assert axes.get_title(loc="left").startswith(f"{role.capitalize()} takes {most / file.nbytes:.0%} of")
        drawn = {}
        for bars in axes.collections:
            for box in (path.get_extents() for path in bars.get_paths() if path.get_extents().height == pytest.approx(0.55)):
                drawn[bars.get_hatch()] = drawn.get(bars.get_hatch(), 0) + box.width
        assert sum(drawn.values()) == pytest.approx(gguf_plot.ROWS)
        for name, nbytes in bytes_by_role(file).items():
            share = drawn.get(gguf_plot.look(name)["hatch"], 0) / gguf_plot.ROWS
            assert share == pytest.approx(nbytes / file.nbytes, abs=0.02), f"{name}: {share:.3f} of the map"
    looks = [gguf_plot.look(kind) for kind in gguf_plot.KINDS]
    for how in ("hatch", "facecolor"):  # told apart in grey, and in colour
        assert len({look[how] for look in looks}) == len(looks)


def test_a_hostile_file_is_drawn_with_few_patches_and_its_names_as_text(tmp_path, recwarn):
    entries = [entry(f"$\\bad{{{i}$ \u202e 狐 \x1b[2J", 8, string("x" * 999)) for i in range(9)]
    tensors = [tensor(("blk.0.attn_q.", "ffn_", "x")[i % 3] + f"{i}", (1,), 0, 32 * i) for i in range(4000)]
    path = tmp_path / "a.gguf"
    path.write_bytes(build(entries, tensors, data=32 * 4000))
    from minillm import plots

    with open_gguf(path) as file:
        fig, (left, right) = plots.figure(2)
        gguf_plot.draw_map(left, file)
        gguf_plot.draw_head(right, file)
        assert 30 < len(left.collections) <= gguf_plot.ROWS * 2 * len(gguf_plot.KINDS)
        gguf_plot.draw(file, tmp_path / "a.png")
    assert all(text.get_text().isascii() and text.get_text().isprintable() for text in right.texts)
    assert not recwarn.list, [str(w.message) for w in recwarn.list]


def test_without_a_picture_nothing_of_matplotlib_is_loaded(tiny_path):
    code = f"import sys\nfrom minillm.cli import main\nmain(['inspect', {str(tiny_path)!r}])\nprint('LOADED', *sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = {m.split(".")[0] for m in out.split("LOADED")[1].split()}
    assert not loaded & {"matplotlib", "numba", "jinja2", "regex"}, loaded & {"matplotlib", "numba", "jinja2", "regex"}


@pytest.mark.parametrize("option", [["--plot"], ["--block", "w", "0"]])
def test_a_shape_has_no_bytes_to_show(option, capsys):
    assert main(["inspect", "llama-3-8b", *option]) == 2
    assert "--plot and --block show a GGUF file, found 'llama-3-8b'" in capsys.readouterr().err


# --- what would run -------------------------------------------------------------------------------------------------------


def test_what_numba_packs_is_what_it_says():
    from minillm.backends.numba_.packed import LAYOUTS

    assert set(PACKED["numba"]) == set(LAYOUTS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_a_backend_makes_of_each_type_what_is_said(backend, name):
    type, ops = BLOCK_TYPES[name], get_backend(backend)
    raw = random_blocks(name, (3, 256), np.random.default_rng(0)).reshape(-1)
    made = ops.load_matrix(StoredTensor(raw, type, (3, 256)))
    kind = {"PackedMatrix": lambda: "packed", "FloatMatrix": lambda: {2: "float16", 4: "float32"}[made.width]}
    assert form(backend, type) == kind.get(made.__class__.__name__, lambda: str(made.dtype))()
    vector = ops.load_matrix(StoredTensor(raw[: type.bytes * (256 // type.weights)], type, (256,)))
    assert form(backend, type, matrix=False) == str(vector.dtype)


BASE = model_metadata(CONFIG, byte_metadata(272))
CASES = {  # metadata and tensors that are changed -> what says no; None: it runs
    "as it is": ({}, {}, None),
    "architecture": ({"general.architecture": "mamba"}, {}, "architecture 'mamba' is not supported"),
    "no architecture": ({"general.architecture": 5}, {}, "general.architecture"),
    "adapter": ({"general.type": "adapter"}, {}, "general.type is 'adapter', not 'model'"),
    "layers": ({"llama.block_count": 2}, {}, "9 tensors are missing, such as 'blk.1.attn_k.weight'"),
    "a billion layers": ({"llama.block_count": 2**31 - 1}, {}, "tensors are missing"),
    "extra": ({}, {"blk.0.ffn_gate.bias": np.ones(32, np.float32)}, "1 tensors are not used, such as 'blk.0.ffn_gate.bias'"),
    "shape": ({}, {"output_norm.weight": np.ones(31, np.float32)}, "1 tensors are of another shape, such as 'output_norm"),
    "embedding": ({"tokenizer.ggml.tokens": [*BASE["tokenizer.ggml.tokens"], "x"], "tokenizer.ggml.token_type": [1] * 273}, {},
                  "it has 273 tokens, the embedding 272 rows"),
    "tokenizer": ({"tokenizer.ggml.model": "bert"}, {}, "expected gpt2 .* found 'bert'"),
    "pre-tokenizer": ({"tokenizer.ggml.pre": "falcon"}, {}, "tokenizer.ggml.pre is 'falcon'"),
    "rope": ({"llama.rope.dimension_count": 8}, {}, "RoPE on 8 of 16 components"),
    "divisors": ({}, {"rope_freqs.weight": np.ones(8, np.float32)}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_to_run_loads_and_nothing_else(tmp_path, name):
    metadata, tensors, why = CASES[name]
    path = tmp_path / "m.gguf"
    write_ours(path, BASE | metadata, parameters() | tensors)
    with open_gguf(path) as file:
        found = runs(file)
    said = " ".join(filter(None, (found["architecture"]["why"], found["tokenizer"]["why"])))
    assert found["runs"] == (why is None), said
    if why is None:
        LLM(path)
        return
    assert re.search(why, said), said
    if name != "adapter":  # which lacks nothing else here
        with pytest.raises(MiniLLMError):
            LLM(path)


def test_a_type_that_is_not_decoded_stands_in_the_way(tmp_path, tiny_path, capsys):
    unknown = with_type(shutil.copy(tiny_path, tmp_path / "m.gguf"), "blk.1.attn_k.weight", 57)
    raw = random_blocks("IQ2_XXS", (1, 256), np.random.default_rng(0))
    for path, type in ((unknown, "unknown 57"), (write_gguf(tmp_path / "i.gguf", [("w", raw, "IQ2_XXS")]), "IQ2_XXS")):
        found = facts(capsys, path)["runs"]
        assert found["not_decoded"] == [type] and not found["runs"]
        assert found["types"][type]["numba"] is found["types"][type]["numpy"] is None


@pytest.mark.parametrize("spec", tiny_models.SPECS)
def test_every_architecture_that_runs_is_said_to(tmp_path, spec):
    tiny_models.write_tiny(spec, tmp_path / "m.gguf")
    with open_gguf(tmp_path / "m.gguf") as file:
        assert runs(file)["runs"]


# --- strings from strangers -------------------------------------------------------------------------------------------------


def test_a_chat_template_is_never_rendered(tmp_path, capsys, monkeypatch):
    from minillm.model.tokenizer import chat, sandbox

    def fail(*_):
        pytest.fail("inspect rendered a chat template")

    for where, name in ((sandbox, "compile_template"), (sandbox.Renderer, "__init__"), (chat.ChatTemplate, "_render")):
        monkeypatch.setattr(where, name, fail)
    template = "{% for i in range(10**12) %}{{ raise_exception('boom') }}{% endfor %}"
    write_ours(tmp_path / "m.gguf", BASE | {"tokenizer.chat_template": template}, parameters())
    assert facts(capsys, tmp_path / "m.gguf")["metadata"]["tokenizer.chat_template"] == template
    assert main(["inspect", str(tmp_path / "m.gguf")]) == 0


def test_strings_of_any_length_are_cut(tmp_path, capsys):
    huge = "\x1b[31m" + "A" * 20_000_000
    rows = [("huge", huge, oracle.GGUFValueType.STRING, None), ("list", [huge, "b"], ARRAY, oracle.GGUFValueType.STRING)]
    rows += [("k" * 100_000, 1, oracle.GGUFValueType.UINT32, None)]
    path = write_gguf(tmp_path / "a.gguf", [("w" * 100_000, np.zeros(4, np.uint8), "F32")], rows)
    with open_gguf(path) as file:
        tracemalloc.start()
        found = contents.summary(file)
        text = "\n".join(contents.report(found))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert all(line.isprintable() and len(line) < 400 for line in text.splitlines()) and len(text) < 20_000
    assert "(20,000,005 characters)" in text and len(json.dumps(found)) < 50_000
    assert peak < 5_000_000, f"{peak:,} bytes to show what is in the file"


def test_numbers_that_json_has_not_are_text(tmp_path, capsys):
    raw = np.array([np.nan, np.inf, -np.inf, 1], "<f4").view(np.uint8)
    path = write_gguf(tmp_path / "a.gguf", [("w", raw, "F32")])
    assert [facts(capsys, path, "--block", "w", i)["block"]["weights"] for i in range(4)] == [["nan"], ["inf"], ["-inf"], [1.0]]
