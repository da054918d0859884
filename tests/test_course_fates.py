"""What becomes of each file and each test of a submission: a fault costs what it is in, and nothing beside it."""

import json
import os
import subprocess
import sys

import pytest
from course_fixture import project, solve

from minillm.course.exercises import regions
from minillm.course.exercises.index import Course
from minillm.course.exercises.start import start
from minillm.course.grading import grade

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="grade needs Linux or macOS")


@pytest.fixture
def course(tmp_path):
    course = project(tmp_path / "project")
    solve(course, course.root / "work")
    return course


def graded(course, ids, **more):
    """{exercise: (points earned, messages)}"""
    scores = grade.grade(course, course.root / "work", ids, check=False, **more)
    return {id: (sum(s.earned for s in scores.tests if s.exercise == id), [s.message for s in scores.tests if s.exercise == id])
            for id in ids}  # fmt: skip


def test_a_file_that_does_not_load_costs_its_own_exercises_and_is_named_with_its_line(course):
    work = course.root / "work"
    text = (work / "layers.py").read_text()
    (work / "layers.py").write_text(text.replace("def attend(q, k, v):", "def attend(q, k, v:"))
    (work / "kernels/fast.py").write_text("import torch_is_not_here\n" + (work / "kernels/fast.py").read_text())
    (work / "kernels/device.py").write_text("from . import fast\n" + (work / "kernels/device.py").read_text())
    found = graded(course, ["91.1", "92.1", "92.3"])
    line = text[: text.index("def attend(")].count("\n") + 1
    assert found["91.1"][0] == found["92.1"][0] == 0
    assert all(message.startswith(f"layers.py:{line}: SyntaxError") for message in found["91.1"][1]), found["91.1"]
    assert found["92.1"][1] == ["kernels/fast.py:1: ModuleNotFoundError: No module named 'torch_is_not_here'"]
    assert found["92.3"] == (1, [""]), "a file beside that does not load must not cost this one"


def test_after_a_death_the_next_test_runs_and_an_exception_names_the_line(course):
    body = "if q.any():\n    import os\n    os._exit(3)\nraise ValueError('zeros')\n"
    file = course.root / "work/layers.py"
    file.write_text(regions.fill(file.read_text(), "91.1", body))
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "raise ValueError" in text)
    earned, (first, second) = graded(course, ["91.1"])["91.1"]
    assert earned == 0 and first.startswith("the process ended (3) in scores") and second == f"zeros (layers.py:{line})"


def test_after_a_loop_the_next_test_runs(course):
    body = "while q.any():\n    pass\nreturn q @ k.T"
    file = course.root / "work/layers.py"
    file.write_text(regions.fill(file.read_text(), "91.1", body))
    earned, (first, second) = graded(course, ["91.1"], limits=grade.Limits(time_limit=1.5))["91.1"]
    assert (earned, second) == (1, "") and first == "scores gave no answer in 1.5 s: a loop that never ends?"


def test_what_another_exercise_gets_wrong_is_right_in_the_judge(course):
    """91.2 is tested with the reference's scores around it; only in the child its own file's are called."""
    file = course.root / "work/layers.py"
    watch = "import sys\nassert not [name for name in sys.modules if name in ('oracles', 'pytest', 'hypothesis')]\n"
    file.write_text(regions.fill(file.read_text(), "91.2", watch + regions.body(course.source("layers.py"), "91.2")))
    assert graded(course, ["91.2"])["91.2"] == (3, [""]), "there is nothing of a test in the child"


# --- the exercises of this course: a judge and a child for each takes seconds ------------------------------------------------


def on_the_command_line(folder, ids, out, seconds=60):
    """`minillm course grade` in a process of its own; wait for it with communicate()."""
    options = ["--only", *ids, "--seed", "4711", "--seconds", str(seconds), "--out", str(out)]
    command = [sys.executable, "-m", "minillm", "course", "grade", str(folder), *options]
    return subprocess.Popen(command, cwd=Course().root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def write_solved(course, folder):
    for file in {exercise.file for exercise in course.exercises.values()}:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(course.source(file))


@pytest.mark.slow
def test_the_reference_earns_every_point_of_every_exercise(tmp_path):
    course = Course()
    lessons = sorted({id[:2] for id in course.exercises})
    write_solved(course, tmp_path / "work")
    patience = 600  # seconds an exercise: a machine that does other things as well is no fault
    runs = [on_the_command_line(tmp_path / "work", lessons[i::2], tmp_path / f"{i}.json", patience) for i in (0, 1)]
    for run in runs:
        text, _ = run.communicate()
        assert run.returncode == 0, text
    tests = [test for i in (0, 1) for test in json.loads((tmp_path / f"{i}.json").read_text())["tests"]]
    assert {test["test"]: test["message"] for test in tests if not test["passed"]} == {}
    assert len(tests) == len(course.tests) and sum(test["earned"] for test in tests) == sum(test.points for test in course.tests)


@pytest.mark.slow
def test_the_stubs_earn_nothing(tmp_path):
    course = Course()
    start(course, ["01-02"], tmp_path / "work")
    run = on_the_command_line(tmp_path / "work", ["01-02"], tmp_path / "scores.json")
    text, _ = run.communicate()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["earned"] == 0 and scores["points"] == 29, text
    assert all("is not written yet" in test["message"] for test in scores["tests"])
