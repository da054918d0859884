"""Notebooks: each was built from the source beside it and runs; the builder gives the same bytes; the contract bites."""

import copy
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minillm import cli, plots
from minillm.course.notebooks import build as builder
from minillm.course.notebooks.contract import NotebookError, differences, problems, source_hash

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
LIMIT_S = 600  # on a machine that does other things too
needs_jupyter = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("jupytext", "nbclient", "ipykernel")),
    reason="Jupyter is not installed: pip install 'minillm-course[notebooks]'",
)


# --- the notebooks of the repository ----------------------------------------------------------------------------------


def test_every_source_has_a_notebook_that_keeps_the_contract():
    if not SOURCES:
        pytest.skip("no notebooks are written yet: notebooks/NN_name.py")
    broken = {path.name: found for path in SOURCES if (found := broken_promises(path))}
    assert not broken, broken


def test_every_notebook_has_a_source():
    assert [p.name for p in FOLDER.glob("*.ipynb") if not p.with_suffix(".py").is_file()] == []


def broken_promises(source):  # path -> [text]
    target = source.with_suffix(".ipynb")
    if not target.is_file():
        return [f"{target.name} does not exist: minillm course notebooks {source.stem[:2]}"]
    return problems(json.loads(target.read_text(encoding="utf-8")), source.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_source_runs_as_plain_python(source, tmp_path):
    """Without the cells for a reader to run: they need ipywidgets."""
    cells = source.read_text(encoding="utf-8").split("\n# %%")
    plain = tmp_path / source.name
    plain.write_text("\n# %%".join(cell for cell in cells if "skip-execution" not in cell.splitlines()[0]), encoding="utf-8")
    status, output = run_source(plain)
    assert status == 0, output[-2000:]


def run_source(source, limit=LIMIT_S):  # -> exit status, what it printed
    """A child with a group of its own, so that a notebook that hangs is ended with all it has started."""
    root = str(Path(builder.__file__).parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    env = os.environ | {"MPLBACKEND": "Agg", "MINILLM_NOTEBOOK_MODEL": "random", "PYTHONPATH": path}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([sys.executable, source.name], cwd=source.parent, env=env, start_new_session=True, **pipes)
    try:
        output = process.communicate(timeout=limit)[0]
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return None, f"{source.name} took more than {limit} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


# --- the builder, on a small notebook ---------------------------------------------------------------------------------

EXAMPLE = """# %% [markdown]
# # An example

# %%
from minillm import plots

print("one")
6 * 7

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
plots.ttft_plot(left, {"with": ([1, 2], [0.1, 0.2])}, plots.finding("It grows", True), bound=([1, 2], [0.1, 0.1], "floor"))
plots.throughput_plot(right, {"with": 2, "without": 1}, "Twice as fast", (2, "ceiling"))
plots.show(fig)

# %% tags=["timing"]
import os

print(os.getpid())

# %% tags=["skip-execution"]
raise SystemExit("only for readers")

# %%
print("two")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The example's source, its built notebook, and a second build."""
    folder = tmp_path_factory.mktemp("notebooks")
    source = folder / "02_example.py"
    source.write_text(EXAMPLE, encoding="utf-8")
    assert builder.main(["02", "--folder", str(folder)]) == 0
    first = (folder / "02_example.ipynb").read_bytes()
    assert builder.main(["--folder", str(folder)]) == 0
    return source, first, (folder / "02_example.ipynb").read_bytes()


@pytest.fixture
def example(built):
    """The built notebook as plain data, to spoil."""
    return json.loads(built[1])


@needs_jupyter
def test_a_notebook_keeps_the_contract_and_shows_its_outputs(built, example):
    assert problems(example, EXAMPLE) == [] == broken_promises(built[0])
    text, code, figure, timing, skipped, last = example["cells"]
    assert code["outputs"][0]["text"] == ["one\n"] and code["outputs"][1]["data"]["text/plain"] == ["42"]
    assert figure["outputs"][0]["data"]["image/png"].startswith("iVBOR") and timing["outputs"]
    assert figure["metadata"]["jupyter"] == {"source_hidden": True} and "jupyter" not in timing["metadata"], "drawing is folded"
    assert skipped["outputs"] == [] and skipped["execution_count"] is None and last["execution_count"] == 4
    assert example["metadata"]["minillm"] == {"source_sha256": source_hash(EXAMPLE)}


@needs_jupyter
def test_two_builds_are_the_same_bytes_but_for_what_was_measured(built):
    first, second = json.loads(built[1]), json.loads(built[2])
    assert differences(first, second) == []
    assert first["cells"][3]["outputs"] != second["cells"][3]["outputs"], "two kernels, two process ids"
    different = [(a, b) for a, b in zip(built[1].splitlines(), built[2].splitlines(), strict=True) if a != b]
    assert len(different) == 1, "the one line that the timing cell printed"


@needs_jupyter
def test_no_kernel_outlives_its_build(example):
    pid = int(example["cells"][3]["outputs"][0]["text"][0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@needs_jupyter
def test_a_change_between_builds_is_seen(built, example):
    other = copy.deepcopy(example)
    other["cells"][1]["outputs"][0]["text"] = ["uno\n"]
    other["cells"][3]["outputs"] = []
    other["cells"][5]["id"] = "x"
    outputs, id_ = differences(example, other)
    assert outputs == "cell 2 differs in its outputs; if it measures, tag it timing" and id_ == "cell 6 differs in its id"
    picture = copy.deepcopy(example)
    picture["cells"][2]["outputs"][0]["data"]["image/png"] = "iVBORother"
    assert len(differences(example, picture)) == 1
    assert differences(example, {**example, "cells": example["cells"][:-1]}) == ["6 cells against 5"]


@needs_jupyter
def test_check_builds_again_and_compares(built, capsys):
    source, target = built[0], built[0].with_suffix(".ipynb")
    assert cli.main(["course", "notebooks", "--check", "--folder", str(source.parent)]) == 0
    before = target.read_bytes()
    target.write_bytes(before.replace(b"two\\n", b"three\\n"))
    try:
        assert builder.main(["--check", "--folder", str(source.parent)]) == 1
        assert "cell 6 differs" in capsys.readouterr().out and b"three" in target.read_bytes(), "check writes nothing"
    finally:
        target.write_bytes(before)


def spoil(example, how):
    """What an author or a machine may do to a notebook."""
    cells = example["cells"]
    if how == "error":
        cells[1]["outputs"].append({"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []})
    elif how == "not run":
        cells[1]["execution_count"] = None
    elif how == "skipped with outputs":
        cells[4]["outputs"] = cells[1]["outputs"]
    elif how == "six figures":
        cells[2]["outputs"] *= 6
    elif how == "warning":
        cells[1]["outputs"].append({"output_type": "stream", "name": "stderr", "text": ["x.py:3: FutureWarning\n"]})
    elif how == "path":
        cells[1]["outputs"][0]["text"] = ["loaded ", "/".join(["", "home", "ada", "model.gguf"]) + "\n"]
    elif how == "address":
        cells[1]["outputs"][1]["data"]["text/plain"] = ["<object object at 0x7f1234567890>"]
    elif how == "no hash":
        del example["metadata"]["minillm"]
    return example


@needs_jupyter
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("error", "cell 2 failed: ValueError: no"),
        ("not run", "cell 2 was not executed"),
        ("skipped with outputs", "cell 5 is tagged skip-execution and has outputs"),
        ("six figures", "6 figures, at most 5"),
        ("warning", "cell 2 wrote to standard error: x.py:3: FutureWarning"),
        ("path", "cell 2 shows something of this machine"),
        ("address", "cell 2 shows something of this machine: at 0x7f"),
        ("no hash", "the source has changed"),
    ],
)
def test_the_contract_bites(example, how, says):
    found = problems(spoil(example, how), EXAMPLE)
    assert len(found) == 1 and says in found[0], found


@needs_jupyter
def test_a_source_that_changed_is_seen(example):
    assert problems(example, EXAMPLE.replace("\n", "\r\n")) == [], "line ends are no change"
    assert "source has changed" in problems(example, EXAMPLE.replace("6 * 7", "6 * 8"))[0]


@needs_jupyter
@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("x = 1\n1 / 0", "cell 2 (x = 1): ZeroDivisionError: division by zero"),
        ("import os\nos._exit(3)", "cell 2 (import os) ended the kernel"),
    ],
)
def test_a_cell_that_fails_is_named_and_nothing_is_written(tmp_path, cell, says):
    (tmp_path / "03_bad.py").write_text(f"# %%\nprint(1)\n\n# %%\n{cell}\n\n# %%\nprint(3)\n")
    with pytest.raises(NotebookError) as error:
        builder.main(["--folder", str(tmp_path)])
    assert says in str(error.value) and [p.name for p in tmp_path.iterdir()] == ["03_bad.py"]


@needs_jupyter
def test_a_cell_that_hangs_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "CELL_LIMIT_S", 4)
    (tmp_path / "03_bad.py").write_text("# %%\nimport time\n\n# %%\nwhile True:\n    time.sleep(0.1)\n")
    with pytest.raises(NotebookError, match=r"cell 2 \(while True:\) took more than 4 s"):
        builder.main(["--folder", str(tmp_path)])


@needs_jupyter
def test_a_notebook_that_breaks_the_contract_is_not_written(tmp_path, capsys):
    (tmp_path / "03_bad.py").write_text("# %%\nimport warnings\n\nwarnings.warn('old')\n")
    assert builder.main(["--folder", str(tmp_path)]) == 1
    assert "standard error" in capsys.readouterr().out and [p.name for p in tmp_path.iterdir()] == ["03_bad.py"]


def test_a_name_that_is_no_notebook_is_refused(tmp_path):
    (tmp_path / "02_kv_cache.py").write_text("")
    with pytest.raises(NotebookError, match="no notebook '03'.*there are: 02_kv_cache"):
        builder.main(["03", "--folder", str(tmp_path)])


def test_the_watchdog_ends_a_source_that_hangs_with_its_children(tmp_path):
    source = tmp_path / "03_hangs.py"
    source.write_text("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])\n")
    assert run_source(source, limit=1) == (None, "03_hangs.py took more than 1 s")
    source.write_text("import os\nprint(os.environ['MINILLM_NOTEBOOK_MODEL'], os.environ['MPLBACKEND'])\nraise SystemExit(3)\n")
    assert run_source(source) == (3, "random Agg\n")


# --- the model at hand ------------------------------------------------------------------------------------------------


def test_the_model_at_hand_says_which_it_is(tmp_path, monkeypatch):
    from minillm.course.notebooks.model_at_hand import model_at_hand

    monkeypatch.setenv("MINILLM_CACHE", str(tmp_path))
    said = []
    llm = model_at_hand(say=said.append)
    assert llm.config.name == "tiny" and "minillm download smollm2-135m" in said[0]
    monkeypatch.setenv("MINILLM_NOTEBOOK_MODEL", "random")
    assert model_at_hand(say=said.append).config.name == "random model" and "download" not in said[1]


@pytest.mark.model
def test_the_model_at_hand_is_smollm2_where_it_is_present(smollm2_path, monkeypatch):
    from minillm.course.notebooks.model_at_hand import model_at_hand

    monkeypatch.delenv("MINILLM_NOTEBOOK_MODEL", raising=False)
    said = []
    assert model_at_hand(say=said.append).config.n_layers == 30 and "134.5 million" in said[0]


# --- pictures that say what their data do not -----------------------------------------------------------------------------

FALSE = {
    "a title about times": ('plots.finding("It grows", 1 > 2)', "refute this title: 'It grows'"),
    "a title about counts": ('plots.finding("It grows", 1 > 2, counted=True)', "refute this title: 'It grows'"),
    "a point over its ceiling": (
        "plots.throughput_plot(axes, {'with': 2.2}, 'Fast', (2, 'ceiling'))",
        "2.2 lies over its ceiling of 2",
    ),
    "a point under its floor": (
        "plots.ttft_plot(axes, {'with': ([1, 2], [0.1, 0.09])}, 'Soon', bound=([1, 2], [0.1, 0.1], 'floor'))",
        "with: 0.09 lies under its floor of 0.1",
    ),
}


@pytest.mark.parametrize("name", FALSE)
@pytest.mark.parametrize("how", ["strict", "quiet", "warn"])
def test_a_false_picture_fails_a_build_and_warns_a_reader(name, how, monkeypatch, recwarn):
    monkeypatch.setenv("MINILLM_PLOTS", how)
    line, says = FALSE[name]
    _, (axes,) = plots.figure()
    if how == "strict" or "counts" in name:
        with pytest.raises(plots.FalsePicture, match=re.escape(says)):
            exec(line, {"plots": plots, "axes": axes})
        return
    exec(line, {"plots": plots, "axes": axes})
    assert [says in str(w.message) for w in recwarn] == ([True] if how == "warn" else [])


def test_what_lies_within_a_twentieth_of_its_bound_is_measured_not_wrong(monkeypatch):
    monkeypatch.setenv("MINILLM_PLOTS", "strict")
    plots.check_ceiling("pace", [2.09, 1.0], [2.0, 2.0])
    plots.check_floor("time", [0.096], [0.1])
    with pytest.raises(plots.FalsePicture):
        plots.check_ceiling("pace", [1.0, 2.11], [2.0, 2.0])


def test_the_spread_is_a_stroke_or_a_shade_from_the_lowest_run_to_the_highest():
    _, (axes,) = plots.figure()
    plots.spread(axes, [1, 2], [[3, 1, 2], [5, 4, 9]], 10)
    strokes = [path.vertices.tolist() for path in axes.collections[0].get_paths()]
    assert strokes == [[[1, 10], [1, 30]], [[2, 40], [2, 90]]]
    plots.spread(axes, [1, 2], [[3, 1, 2], [5, 4, 9]], shade=1)
    (outline,) = axes.collections[1].get_paths()
    assert {tuple(point) for point in outline.vertices.tolist()} == {(1, 1), (1, 3), (2, 4), (2, 9)}
    plots.spread_bars(axes, [[3, 1], [2, 2]], 2)
    assert [path.vertices.tolist() for path in axes.collections[2].get_paths()] == [[[0.2, 2], [0.2, 6]], [[1.2, 4], [1.2, 4]]]


def test_logarithmic_heights_have_labels_where_they_were_asked_for():
    _, (axes,) = plots.figure()
    axes.plot([1, 2], [0.2, 1500])
    plots.log_heights(axes, [0.5, 10, 1000])
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] < 0.2 and axes.get_ylim()[1] > 1500
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0.5", "10", "1,000"]
    plots.log_heights(axes, [10], 3, 30)
    assert axes.get_ylim() == (3, 30)


def test_a_notebook_without_one_of_both_plots_is_named(built, example):
    """The figure of the example shows both; one that lost a panel does not."""
    (figure,) = [c for c in example["cells"] if c.get("metadata", {}).get("tags") == ["drawing"]]
    panels = figure["outputs"][0]["metadata"]["image/png"]["minillm"]
    assert [panel["y"] for panel in panels] == ["TTFT (ms)", "throughput (tokens/s)"]
    lost = panels.pop()
    assert problems(example, EXAMPLE) == ["no picture has throughput on its y axis"]
    panels[:] = [lost]
    assert problems(example, EXAMPLE) == ["no picture has the time to the first token on its y axis"]


def machine(**changed):
    from minillm.bench.machine import Machine

    rates = {"read_bytes_per_s": 3e10, "flops_per_s": 1e11, "kernel_flops_per_s": 2e11}
    return Machine(**(rates | {"cores": 2, "cpu": "a"} | changed))


def test_all_notebooks_have_one_machine(tmp_path, monkeypatch):
    from minillm.bench import machine as bench

    def measured(**changed):
        monkeypatch.setattr(bench, "measure_machine", lambda *_, **__: machine(**changed))
        return lambda names: builder.same_machine(tmp_path, names)

    def kept():
        return json.loads((tmp_path / "machine.json").read_text())["read_bytes_per_s"]

    measured()([])
    assert kept() == 3e10
    measured(read_bytes_per_s=2e10)(["02"])
    assert kept() == 3e10, "what was reached once can be reached"
    measured(read_bytes_per_s=3.2e10)(["02"])
    assert kept() == 3.2e10
    with pytest.raises(NotebookError, match="read_bytes_per_s grew by more than a tenth. Build all"):
        measured(read_bytes_per_s=4e10)(["02"])
    with pytest.raises(NotebookError, match="it was 2 cores of a"):
        measured(cores=4)(["02"])
    measured(read_bytes_per_s=4e10)([])
    assert kept() == 4e10
    monkeypatch.setenv("MINILLM_MACHINE", str(tmp_path / "machine.json"))
    assert bench.kept_machine().read_bytes_per_s == 4e10
