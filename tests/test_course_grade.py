"""Grading and release: full points for the reference, none for the stubs, and what is reported in whose format."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from course_fixture import cli, project, pytest_in, python, solve

from minillm.course.exercises import regions
from minillm.course.exercises.start import start
from minillm.course.grading import box, grade, report
from minillm.course.grading.lint import lint
from minillm.course.grading.release import release

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="grade needs Linux or macOS")


@pytest.fixture
def course(tmp_path):
    return project(tmp_path / "project")


def test_the_reference_earns_everything_and_the_stubs_nothing(course):
    work = course.root / "work"
    solve(course, work)
    scores = grade.grade(course, work, seed=5)
    assert (scores.earned, scores.points) == (10, 10), report.lines(scores)
    shutil.rmtree(work)
    start(course, [], work)
    scores = grade.grade(course, work, seed=5)
    assert scores.earned == 0 and all("is not written yet" in score.message for score in scores.tests)


def test_a_half_done_submission_earns_its_half_and_other_files_of_it_are_ignored(course):
    work = course.root / "work"
    solve(course, work, "layers.py")
    (work / "layers.py").write_text(regions.fill(course.source("layers.py"), "91.2", "weights = s"))
    (work / "helper.py").write_text("raise SystemExit\n")
    scores = grade.grade(course, work, ["91", "92.3"])
    assert {score.test.split("::")[1]: score.earned for score in scores.tests} == {
        "test_scores_are_scaled_dot_products": 2,
        "test_a_query_of_zeros_scores_zero": 1,
        "test_attention_is_the_weighted_mean": 0,
        "test_add_adds": 0,
    }
    assert "weighted mean of the values" in scores.tests[2].message
    assert scores.tests[3].message == "kernels/device.py was not submitted"


def test_private_tests_count_and_stay_hidden(course, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    (private / "test_91_hidden.py").write_text(
        "from minillm.course.checks import check_close, draws, exercise\nfrom minillm.layers import scores\n"
        "@exercise('91.1', points=4)\ndef test_one_by_one():\n    q, k = draws(0, (1, 1), (1, 1))\n"
        "    check_close(scores(q, k), q * k)\n"
    )
    work = course.root / "work"
    solve(course, work, "layers.py")
    scores = grade.grade(course, work, ["91.1"], private=private)
    assert scores.earned == 7
    shown = {test["name"]: test["visibility"] for test in report.gradescope(scores)["tests"]}
    assert shown["one by one"] == "after_published" and shown["a query of zeros scores zero"] == "visible"


def test_what_the_child_needs_is_found_by_any_way_round(tmp_path):
    """A module that two others import, and a function imported from a module."""
    sources = {
        "grading/child": "from minillm.course.grading import other\nfrom minillm.course.exercises import regions",
        "grading/other": "from minillm.course.exercises import regions\nfrom minillm.course.paths import near",
        "exercises/regions": "", "paths": "", "plugin": "from minillm.course.grading import child",
    }  # fmt: skip
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text)
    assert box.needed(tmp_path) == {"grading.child", "grading.other", "exercises.regions", "paths"}


def test_a_test_that_is_worth_nothing_is_not_reported_as_passed_when_it_fails():
    scores = grade.Scores([grade.Score("91.1", "test_a.py::test_one", 0), grade.Score("91.1", "test_a.py::test_two", 0)])
    grade.believe(scores.tests, [
        {"event": "plan", "tests": {"test_a.py::test_one": 1, "test_a.py::test_two": 1}, "broken": None},
        {"event": "outcome", "test": "test_a.py::test_one", "status": "passed", "message": "", "broken": None},
        {"event": "outcome", "test": "test_a.py::test_two", "status": "failed", "message": "no", "broken": None},
    ], "ended")  # fmt: skip
    assert [test["status"] for test in report.gradescope(scores)["tests"]] == ["passed", "failed"]
    assert [test["passed"] for test in report.classroom50(scores)["tests"]] == [True, False]


def test_a_new_seed_is_a_new_hidden_test(course):
    """An answer fitted to the inputs of seed 0 earns nothing on another seed."""
    work = course.root / "work"
    solve(course, work, "kernels/device.py")
    file = course.root / "tests/test_92_kernels.py"
    fitted = "def test_add_adds():\n    assert int(draws(1, (1,))[0] * 1e6) == FITTED\n"
    fitted = file.read_text().split("def test_add_adds")[0] + fitted
    value = subprocess.run(
        [sys.executable, "-c", "from minillm.course.checks import draws; print(int(draws(1, (1,))[0] * 1e6))"],
        env=os.environ | {"MINILLM_SEED": "0"}, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    file.write_text(fitted.replace("FITTED", value))
    earned = [grade.grade(course, work, ["92.3"], seed=seed).earned for seed in (0, 1)]
    assert earned == [1, 0]


def test_scores_on_the_command_line_and_in_three_formats(course):
    solve(course, course.root / "work", "kernels/device.py")
    run = cli(course, "grade", "work", "--only", "92.3", "--out", "a.json", "--gradescope", "b.json", "--classroom50", "c.json")
    assert run.returncode == 0 and "92.3     1 of 1   test_add_adds: passed" in run.stdout
    ours, gradescope, classroom = (json.loads((course.root / name).read_text()) for name in ("a.json", "b.json", "c.json"))
    assert ours["earned"] == gradescope["score"] == classroom["score"] == classroom["max-score"] == 1
    assert gradescope["execution_time"] > 0 and gradescope["output"].startswith("1 of 1 points")
    assert {"score", "max_score", "name", "status", "output", "visibility", "number"} == set(gradescope["tests"][0])
    assert classroom["tests"] == [{"test-name": "test_92_kernels.py::test_add_adds", "passed": True, "score": 1, "max-score": 1}]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("import os", "import of os"),
        ("from minillm.course import checks", "import of minillm.course"),
        ("from ..course import checks", "import of ..course"),
        ("from dataclasses import sys", "import of dataclasses.sys|.sys reaches outside"),
        ("x = np.core.os", ".os reaches outside"),
        ("x = np.load('a')", "np.load touches files"),
        ("x = ().__class__.__bases__", ".__bases__ looks behind"),
        ("x = eval('1')", "eval is not for exercises"),
        ("class A:\n    def __eq__(self, other):\n        return True", "__eq__ can mislead"),
        ("K = '''__global__ void k() {\nsystem(\"ls\");\n}'''", r"x.py:3: system\( is not for a kernel"),
        ("def f(:", "does not parse"),
    ],
)
def test_the_lint_names_line_and_reason(line, says):
    (first, *_) = lint(f"import numpy as np\n{line}\n", "import numpy as np\n", "x.py")
    assert first.startswith("x.py:")
    assert re.search(says, first), first


def test_the_lint_lets_the_stub_and_the_reference_pass(course):
    for file in {exercise.file for exercise in course.exercises.values()}:
        source = course.source(file)
        assert lint(source, regions.blank(source, name=file), file) == []
    (once,) = lint("import os\nimport os\n", "import os\n", "x.py")
    assert once.startswith("x.py:2: import of os"), "the stub has one of them"


def unpack(path, folder):
    with zipfile.ZipFile(path) as bundle:
        for entry in bundle.infolist():
            bundle.extract(entry, folder)
            (folder / entry.filename).chmod(entry.external_attr >> 16)
    return folder


def test_the_student_bundle_is_a_project_without_the_answers(course, tmp_path):
    student, _ = release(course, ["91"], tmp_path / "dist", seed=1)
    again, _ = release(course, ["91"], tmp_path / "again", seed=1)
    assert student.read_bytes() == again.read_bytes(), "the same input gives the same bytes"
    folder = unpack(student, tmp_path / "unpacked")
    settings = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert settings["addopts"].endswith("--impl work")
    for path in folder.rglob("*.py"):
        assert "np.sqrt(q.shape[-1])" not in path.read_text(), f"{path} holds an answer"
    assert not (folder / "tests/wrong").exists() and not (folder / "tests/test_92_kernels.py").exists()
    assert (folder / "lessons/91_layers.md").exists() and not (folder / "lessons/92_kernels.md").exists()
    assert "ex=92.1 lines=4 (not started)" in (folder / "minillm/kernels/fast.py").read_text()
    assert "Be a tutor" in (folder / "AGENTS.md").read_text() and "91_layers" in (folder / "README.md").read_text()
    bundle = type(course)(folder / "minillm", folder)
    run = pytest_in(bundle)
    assert run.returncode == 0 and "5 todo" in run.stdout, run.stdout
    assert "91.1  to do" in cli(bundle, "check").stdout
    assert "is not in this bundle" in cli(bundle, "solution", "91.1").stdout
    assert [exercise.lines for exercise in bundle.exercises.values()] == [1, 2]
    where = python(bundle, "-c", "from minillm import errors, layers; print(layers.__file__, errors.__file__)")
    assert where.stdout.split() == [str(folder / "work/layers.py"), str(folder / "minillm/errors.py")], "not the student's"


def test_the_autograder_bundle_grades_reference_stubs_and_half(course, tmp_path):
    _, autograder = release(course, ["91"], tmp_path / "dist", seed=9)
    source = unpack(autograder, tmp_path / "source")
    (tmp_path / "venv/bin").mkdir(parents=True)
    interpreter = tmp_path / "venv/bin/python"
    interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    stub = regions.blank(course.source("layers.py"), name="layers.py")
    half = regions.fill(stub, "91.1", regions.body(course.source("layers.py"), "91.1"))
    for text, points in ((course.source("layers.py"), 6), (stub, 0), (half, 3)):
        (tmp_path / "submission").mkdir(exist_ok=True)
        (tmp_path / "submission/layers.py").write_text(text)
        env = os.environ | {"AUTOGRADER_ROOT": str(tmp_path), "AUTOGRADER_VENV": str(tmp_path / "venv")}
        run = subprocess.run([source / "run_autograder"], env=env, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        results = json.loads((tmp_path / "results/results.json").read_text())
        assert results["score"] == points == sum(test["score"] for test in results["tests"])
        assert sum(test["max_score"] for test in results["tests"]) == 6
        assert json.loads((tmp_path / "results/result.json").read_text())["score"] == points
