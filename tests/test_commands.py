"""Every command that the project advertises parses and runs; what lessons and cards name is there; and these tests can fail."""

import importlib.util
import io
import re
import sys

import pytest
from command_help import COURSE, LINE, ROOT, Advertised, collect, commands, of_file, wrong
from command_run import SLOW, Mock, form, prepare, run_once, what

from minillm.course.interview.cards import cards_folder, read_decks

ADVERTISED = collect()
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.md"))
RUN = {}  # form -> a command line; those that only name a command are not run
COMPLETE = ("backends", "bench model", "chat", "quiz", "tour", "serve")  # commands that need no argument
for one in ADVERTISED:
    if (not one.is_name or what(one.text) in COMPLETE) and "…" not in one.text:
        RUN.setdefault(form(one.text), one.text)


def test_every_advertised_command_parses_and_names_what_is_there():
    broken = {f"{one.where}: {one.text}": why for one in ADVERTISED if (why := wrong(one))}
    assert not broken, broken


def test_commands_are_found_in_every_kind_of_place():
    """A collector that finds nothing passes everything."""
    places = {one.where.split(":")[0].split(" ")[0] for one in ADVERTISED}
    wanted = {f"lessons/{name}.md" for name in ("instructors", "01_inference", "cards/README")}
    wanted |= {f"minillm/{name}" for name in ("course/bundle/README.md", "course/exercises/progress.py", "model/zoo.py")}
    wanted |= {"README.md", "data/models/README.md", "data/models/tiny.toml", ".ci/run", "tests/conftest.py"}
    wanted |= {f"lessons/cards/{path.name}" for path in cards_folder().glob("*.toml")}
    assert wanted <= places, wanted - places


# --- each runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        prepare(path)
    return path


@pytest.fixture
def run(folder, monkeypatch, capfd):
    """run(command line) -> (exit status, standard output, standard error), with peers absent and a typist to answer."""
    find = importlib.util.find_spec
    peers = ("torch", "llama_cpp", "transformers", "openvino_genai", "vllm", "xllamacpp")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in peers else find(name, *more))
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    monkeypatch.setenv("MINILLM_STATE", str(folder / "state"))
    monkeypatch.setenv("MINILLM_PEERS", "")
    monkeypatch.chdir(folder)

    def run(text):
        with Mock() as url:
            status = run_once(text, url, monkeypatch)
        return status, *capfd.readouterr()

    return run


@pytest.mark.parametrize(
    "text", [pytest.param(text, marks=[pytest.mark.slow] * (what(text) in SLOW)) for text in sorted(RUN.values())]
)
def test_an_advertised_command_runs(run, text):
    status, out, err = run(text)
    assert status == 0 and "Traceback" not in err, err
    assert out.strip() or "--out" in text or what(text) in ("serve", "profile")
    if "--peers" in text and "--peers exact" not in text:  # which is ours
        assert "no peer is installed" in err


# --- what lessons and cards name -------------------------------------------------------------------------------------------


def tables():
    """(lesson, ids) of the list of exercises in each lesson."""
    for path in LESSONS:
        yield path, re.findall(r"^- \*\*(\d\d\.\d+)\*\*", path.read_text(encoding="utf-8"), re.M)


def test_a_lesson_lists_its_exercises_all_of_them_and_no_other():
    have = {}
    for id, exercise in COURSE.exercises.items():
        have.setdefault(exercise.lesson, []).append(id)
    assert {path.stem: ids for path, ids in tables()} == have


def named_paths(text):
    """Links and code spans of a text that look like a file of the project."""
    found = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    return found + re.findall(r"`([\w.-]+/[\w./-]*\w(?:\.\w+|/)?)`", text)


def missing(path):  # -> what a file names that is nowhere
    bases = (path.parent, ROOT, ROOT / "minillm")
    texts = named_paths(path.read_text(encoding="utf-8"))
    return [name for name in texts if not any((base / name).exists() for base in bases) and not re.match(ELSEWHERE, name)]


ELSEWHERE = r"submission/|private/|work/|\./|tests/(wrong|right)/03_name/|minillm/other_lessons.bin"  # made by others, later


@pytest.mark.parametrize("path", [*LESSONS, ROOT / "README.md", ROOT / "lessons/instructors.md"], ids=lambda path: path.stem)
def test_the_files_that_a_text_names_are_there(path):
    assert missing(path) == []


def test_an_experiment_of_a_card_is_a_command_or_a_file():
    named = {card.id: card.experiment for deck in read_decks().values() for card in deck if card.experiment}
    files = {id: name for id, name in named.items() if not name.startswith("minillm ")}
    assert files and [f"{id}: {name}" for id, name in files.items() if not (ROOT / name).is_file()] == []


# --- these tests can fail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("minillm course check 04.16", "no exercise or lesson '04.16'"),
        ("minillm course start 88", "no exercise or lesson '88'"),
        ("minillm course chekc 01", "invalid choice"),
        ("minillm bench --lanes 3", "unrecognized arguments: --lanes"),
        ("minillm bench nothing", "invalid choice"),
        ("minillm tour --out", "expected one argument"),
        ("minillm claims --json", "invalid choice"),
        ("minillm quiz --deck 88", "no deck"),
        ("minillm generate hello --model smollm2-1m", "no model is called"),
        ("minillm train --config data/models/none.toml", "there is no data/models/none.toml"),
        ("minillm course kills 03.9", "no exercise or lesson '03.9'"),
        ("minillm generate 'hello", "no command line"),
        ("python -m minillm.engine.nothing FILE", "no module to run"),
    ],
)
def test_a_planted_mistake_is_seen(text, says, capsys):
    found = wrong(Advertised(text, "somewhere"))
    assert found and says in found + capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Run `minillm claims`, then go.", ["minillm claims"]),
        ("| `minillm tour --peers` | x |", ["minillm tour --peers"]),
        ("    minillm course check 04.6    # a comment", ["minillm course check 04.6"]),
        ("```\nminillm claims --json\n```", ["minillm claims --json"]),
        ("a && b && minillm tour", ["minillm tour"]),
        ("a span `minillm bench\n--batch 3` over two lines", ["minillm bench --batch 3"]),
        ("next: minillm course check 01.2 (or not)", ["minillm course check 01.2"]),
        ("`python -m minillm.x a|b FILE`", ["python -m minillm.x a FILE", "python -m minillm.x b FILE"]),
        ("minillm is small, and minillm stays so", []),
        ("install minillm again: `pip install minillm-course`", []),
    ],
)
def test_a_command_is_found(text, found, tmp_path):
    (tmp_path / "x.md").write_text(text + "\n\nminillm is small, and minillm stays so.\n")
    assert [one.text for one in of_file(tmp_path / "x.md")] == found


def test_a_command_in_a_message_is_found(tmp_path):
    source = '"""Doc.\n\n    minillm tour --doc\n"""\nraise E(f"no {x}; fetch it: minillm download {x} --now")\n'
    (tmp_path / "x.py").write_text(source)
    assert [(one.text, one.where) for one in of_file(tmp_path / "x.py")] == [
        ("minillm tour --doc", "x.py:1"),
        ("minillm download {…} --now", "x.py:5"),
    ]
    assert commands("minillm is small", LINE) == []


def test_a_broken_benchmark_is_seen(run, monkeypatch):
    from minillm.bench import blocks

    monkeypatch.setattr(blocks, "run", lambda *_: blocks.sequence_operations())
    with pytest.raises(TypeError):
        run("minillm bench blocks")


def test_a_file_that_is_not_there_is_seen(tmp_path):
    (tmp_path / "x.md").write_text("See [this](nothing.md), `cache/nothing.py` and `cache/paged.py`.")
    assert missing(tmp_path / "x.md") == ["nothing.md", "cache/nothing.py"]
