"""What is wrong with one file is said with its line, and costs that file's exercises only; a loop is named by its line."""

import importlib.metadata
import os
import sys
import types
from pathlib import Path

import pytest
from course_fixture import check_in_forks, cli, project, pytest_in, python, solve

from minillm.course.exercises import broken, regions, runner, warm
from minillm.course.exercises.check import check
from minillm.course.exercises.progress import Progress
from minillm.course.exercises.start import start
from minillm.course.exercises.status import status


@pytest.fixture
def course(tmp_path, monkeypatch):
    check_in_forks(monkeypatch)
    course = project(tmp_path / "project")
    solve(course, course.root / "work", "layers.py", "kernels/device.py", "kernels/scale.cu")
    test = course.root / "tests/test_92_kernels.py"  # a lesson whose tests import another lesson's file, as those of 01 do
    test.write_text(test.read_text().replace("import device, fast\n", "import device, fast\nfrom minillm.layers import scores\n"))
    return course


DAMAGE = {  # {a file's damage: what is said about it}
    "syntax": (lambda text: text.replace("(q, k)\n", "(q, k\n"), "layers.py:31: SyntaxError: '(' was never closed"),
    "import": (lambda text: text.replace("import numpy", "import torch\nimport numpy"), "layers.py:6: ModuleNotFoundError: No"),
    "name": (lambda text: text.replace("NamedTuple):", "Named):"), "layers.py:16: NameError: name 'Named' is not defined"),
    "renamed": (lambda text: text.replace("def scores", "def score"), "layers.py: scores is missing: was it renamed?"),
    "exit": (lambda text: f"raise SystemExit\n{text}", "layers.py:1: SystemExit"),
    "loop": (lambda text: f"while True: pass\n{text}", "layers.py:1: TimeLimit: no answer after 3 s"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_cannot_be_loaded_costs_its_own_exercises_only(course, damage):
    change, said = DAMAGE[damage]
    file = course.root / "work/layers.py"
    file.write_text(change(file.read_text()))
    start = warm.run if warm.possible() else runner.cold
    limit = 1 if damage == "loop" else 20
    result = runner.run(course, course.root / "work", ["91", "92.2", "92.3"], time_limit=limit, start=start)
    statuses = {outcome.exercise: outcome.status for outcome in result.outcomes}
    assert statuses == {"91.1": "failed", "91.2": "failed", "92.2": "passed", "92.3": "passed"}, result.output
    assert not result.errors and len(result.broken) == 1 and f"{course.root}/work/{said}" in result.broken[0]
    assert all(outcome.message == result.broken[0] for outcome in result.outcomes if outcome.status == "failed")


def test_check_says_it_once_and_notes_it_beside_what_is_done(course, monkeypatch):
    monkeypatch.chdir(course.root)
    file = course.root / "work/layers.py"
    file.write_text(file.read_text().replace("import numpy", "import numpy.torch\nimport numpy"))
    said = "work/layers.py:6: ModuleNotFoundError: No module named 'numpy.torch'"
    lines, done = check(course, Progress.load("work"), ["91"])
    assert not done and lines[:2] == ["91.1  not yet  its file cannot be loaded", f"  {said}"] and len(lines) == 3
    lines, done = check(course, Progress.load("work"), ["92.3"])
    assert done and lines[1] == f"  note: {said}; the reference took its place here"
    assert f"\n{said}" in pytest_in(course, "--impl", "work").stdout


def test_an_error_beside_a_place_that_is_still_empty_is_named(course, monkeypatch):
    monkeypatch.chdir(course.root)
    file = course.root / "work/layers.py"
    reference = regions.blank(file.read_text(), {"91.1"}, "layers.py")
    file.write_text(reference.replace("import numpy as np", "import numpy as np\nx = = 1"))
    lines, done = check(course, Progress.load("work"), ["91"])
    number = file.read_text().splitlines().index("x = = 1") + 1
    assert not done and "91.1  to do" in lines[0] and lines[-1] == f"  note: work/layers.py:{number}: SyntaxError: invalid syntax"
    file.write_text(reference + "\0")
    assert "source code string cannot contain null bytes" in check(course, Progress.load("work"), ["91"])[0][-1]


def test_check_stops_at_the_first_time_out_and_names_whose_line_it_is(course, monkeypatch):
    monkeypatch.chdir(course.root)
    file = course.root / "work/layers.py"
    loop = "while True:\n    [len(q) for _ in range(1000)]"
    file.write_text(regions.fill(file.read_text(), "91.1", loop))
    run, result = runner.run, None

    def shortly(course, work, ids, seed):
        nonlocal result
        result = run(course, work, ids, seed, time_limit=1)
        return result

    monkeypatch.setattr(runner, "run", shortly)
    progress = Progress.load("work")
    lines, _ = check(course, progress, ["91.1"])
    assert "no answer after 1 s, in work/layers.py:26 (exercise 91.1): a loop" in " ".join(map(str.strip, lines))
    assert len(result.outcomes) == 1, "91.1 has two tests: the first is enough to know"
    progress.finish(course.exercises["91.1"])
    lines, _ = check(course, progress, ["91.2"])
    assert lines[0].startswith("91.1  not yet  its lines never end: the tests of 91.2 met that")
    assert not progress.is_done(course.exercises["91.1"])


def test_the_loop_is_told_from_what_it_calls(tmp_path):
    def frame(path, line):
        return types.SimpleNamespace(f_code=types.SimpleNamespace(co_filename=str(path)), f_lineno=line)

    inner = [frame(tmp_path / "b.py", n) for n in range(3)]
    outer, test = frame(tmp_path / "a.py", 3), frame("/elsewhere/test_a.py", 9)
    assert broken.running([[one, outer, test] for one in inner], tmp_path) == (str(tmp_path / "a.py"), 3)
    assert broken.running([[test]], tmp_path) is None


def test_lessons_and_exercises_have_one_spelling_everywhere(course):
    for typed, ids in {"91": ["91"], "91.2": ["91.2"], "90-92": ["91", "92"], "91_layers": ["91"], " 91.02": ["91.2"]}.items():
        assert course.choice([typed]) == ids
    assert "no exercise or lesson 'ninety'" in cli(course, "status", "ninety").stdout
    assert "no exercise or lesson '7'" in cli(course, "solution", "7").stdout


def test_status_puts_the_lesson_at_hand_first_in_80_columns(course, monkeypatch):
    (course.root / "work/layers.py").unlink()
    start(course, ["91"], course.root / "work")
    monkeypatch.chdir(course.root)
    lines = status(course, Progress.load("work"), width=80)
    assert lines[0] == "lesson 91: lessons/91_layers.md" and lines[1].startswith("91.1   to do    0 of 3   Scaled dot")
    assert lines[3].startswith("others: 92 0/4") and "status --all" in lines[4]
    assert "92.3" not in "\n".join(lines) and "92.3" in cli(course, "status", "--all").stdout
    assert cli(course, "status", "92").stdout.startswith("lesson 92")
    assert max(map(len, lines)) <= 80


def test_a_folder_has_one_name_in_all_commands_and_paths_are_as_one_would_type_them(course):
    elsewhere = course.root / "mine"
    for option in ("--work", "--out"):  # the second is what it was called
        said = cli(course, "start", "91", option, str(elsewhere), "--force").stdout
        assert "mine/layers.py: written" in said and str(elsewhere) not in said and "check --work mine" in said
    assert "91.1  to do" in cli(course, "check", "--work", "mine").stdout
    graded = [cli(course, "grade", *words, "--only", "91.1").stdout for words in (["mine"], ["--work", "mine"])]
    assert graded[0] == graded[1] and "0 of 3" in graded[0]
    both = cli(course, "grade", "mine", "--work", "other")
    assert both.returncode == 2 and "two submissions, mine and --work other: grade one" in both.stdout, both.stdout
    for action in ("start", "check", "hint", "status", "solution", "grade"):  # no command hides how it takes the folder
        shown = cli(course, action, "--help").stdout
        assert "--work DIR" in shown and ("--out DIR" in shown) == (action == "start"), action


def test_pytest_with_a_folder_outside_the_project_says_what_to_type(course, tmp_path):
    solve(course, tmp_path / "away")
    installed = any(point.name == "minillm" for point in importlib.metadata.entry_points(group="pytest11"))
    entry = ["-p", "minillm.course.exercises.entry"]
    by_itself = [] if installed else entry  # pytest loads it by itself, and not twice
    run = python(course, "-m", "pytest", *by_itself, "--impl", str(tmp_path / "away"))
    assert run.returncode == 4 and f"write --impl={tmp_path / 'away'}" in run.stdout, run.stdout
    run = pytest_in(course, f"--impl={tmp_path / 'away'}", *entry)
    assert run.returncode == 0, run.stdout + run.stderr
    other = pytest_in(course, *entry, "--rootdir", str(tmp_path), "-c", os.devnull, "--version")
    assert other.returncode == 0


def test_the_entry_point_is_the_module_that_is_tested():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"minillm": "minillm.course.exercises.entry"}
    assert "minillm.course" in sys.modules
