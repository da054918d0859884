"""A learner's commands: start, check, hint, status, solution; each names the next step and loses nothing."""

import json
import re

import pytest
from course_fixture import check_in_forks, cli, project, pytest_in, python, solve

from minillm.cli import backends, main
from minillm.course.exercises import check, regions
from minillm.course.exercises.index import CourseError
from minillm.course.exercises.progress import Progress
from minillm.course.exercises.start import start
from minillm.course.grading import grade


@pytest.fixture
def course(tmp_path, monkeypatch):
    check_in_forks(monkeypatch)
    return project(tmp_path / "project")


def test_the_index_reads_sources_and_tests(course):
    one, kernel = course.exercises["91.1"], course.exercises["92.2"]
    assert list(course.exercises) == ["91.1", "91.2", "92.1", "92.2", "92.3"]
    assert (one.file, one.function, one.lines, one.points, one.lesson) == ("layers.py", "scores", 1, 3, "91_layers")
    assert one.title == "Scaled dot products of every query with every key." and len(one.hints) == 3
    assert (kernel.function, kernel.title, kernel.points) == ("scale", "Multiply an array by a number.", 1)
    assert [e.id for e in course.chosen(["91-92"])] == list(course.exercises)
    with pytest.raises(CourseError, match="no exercise or lesson '07'; lessons with exercises: 91, 92"):
        course.chosen(["07"])


def test_an_exercise_in_two_places_and_a_mark_that_is_no_literal_are_refused(course):
    (course.package / "twice.py").write_text("# BEGIN SOLUTION ex=91.1\nx = 1\n# END SOLUTION\n")
    with pytest.raises(regions.RegionError, match="exercise 91.1 is in layers.py already"):
        _ = type(course)(course.package, course.root).exercises
    (course.root / "tests/test_93_x.py").write_text("ID = '93.1'\n@exercise(ID)\ndef test_x(): pass\n")
    with pytest.raises(CourseError, match="test_93_x.py:2: @exercise takes one id and literal values"):
        _ = type(course)(course.package, course.root).tests


def test_start_keeps_what_is_the_learners(course):
    work = course.root / "work"
    assert start(course, ["91.1"], work) == [("layers.py", "written")]
    mine = (work / "layers.py").read_text().replace('    raise NotImplementedError("exercise 91.1")', "    return 42  # mine")
    (work / "layers.py").write_text(mine)
    assert start(course, ["91"], work) == [("layers.py", "kept, and in it begun 91.2")]
    text = (work / "layers.py").read_text()
    assert "return 42  # mine" in text and 'NotImplementedError("exercise 91.2")' in text
    assert "kept (yours" in start(course, ["91"], work)[0][1] and (work / "layers.py").read_text() == text
    assert start(course, ["91"], work, force=True) == [("layers.py", "written anew")]
    assert "mine" not in (work / "layers.py").read_text()
    assert not list(work.rglob("*.part"))
    with pytest.raises(CourseError, match="holds the reference itself"):
        start(course, ["91"], course.package)


def test_an_exercise_that_was_not_started_is_no_free_point(course):
    """91.2 shares a file with 91.1: it is a stub there, is lent where it is not tested, and earns nothing until it is written."""
    work = course.root / "work"
    start(course, ["91.1"], work)
    text = (work / "layers.py").read_text()
    assert "# BEGIN YOUR CODE ex=91.2 lines=2 (not started)" in text and "weights" not in text.split("ex=91.2")[1].split("END")[0]
    text = regions.fill(text, "91.1", "return q @ k.T / np.sqrt(q.shape[-1])")
    (work / "layers.py").write_text(text)
    lines, done = check.check(course, Progress.load(work))
    assert done and lines[0].startswith("91.1  done") and "course start 91" in lines[1], "91.2 is not asked for"
    lines, done = check.check(course, Progress.load(work), ["91.2"])
    assert not done and lines[0].startswith("91.2  to do") and "lesson 91, which is not started" in lines[1]
    assert "91.2   -        0 of 3" in cli(course, "status").stdout
    run = pytest_in(course, "--impl", "work")
    assert run.returncode == 0 and "91.1   done" in run.stdout and "91.2" not in run.stdout, run.stdout
    run = pytest_in(course, "--impl", "work", "--ex", "91.2")
    assert "91.2   todo       0 of 3" in run.stdout, run.stdout
    use = "from minillm.course.exercises.overlay import Overlay; Overlay('work', 'minillm').install(); import numpy as np; "
    use += "from minillm.layers import attend; print(attend(*[np.ones((2, 3))] * 3)[0, 0])"
    assert python(course, "-c", use).stdout == "1.0\n", "the rest of the file works"
    scores = grade.grade(course, work, ["91"])
    assert {score.exercise: score.earned for score in scores.tests if score.points == 3} == {"91.2": 0} and scores.earned == 3
    assert start(course, ["91"], work) == [("layers.py", "kept, and in it begun 91.2")]
    assert (work / "layers.py").read_text() == text.replace(" (not started)", "")


def test_check_says_what_the_grader_would_refuse(course):
    work = course.root / "work"
    solve(course, work)
    file = work / "layers.py"
    file.write_text("import os\n" + file.read_text())
    lines, done = check.check(course, Progress.load(work), ["91"])
    refused = [line for line in lines if "the grader would refuse layers.py:1: import of os" in line]
    assert done and len(refused) == 1, "once, though the file holds two exercises"


def test_a_first_half_hour(course):
    def say(*arguments):
        run = cli(course, *arguments)
        return run.stdout

    assert "minillm: no folder work; begin with: minillm course start 01" in say("check")
    said = say("start", "91")
    assert "work/layers.py: written\nlesson: lessons/91_layers.md\n" in said
    assert "write scores in work/layers.py:24, about 1 line\nnext: minillm course check" in said
    assert "91.1  to do  Scaled dot products" in say("check")
    file = course.root / "work/layers.py"
    file.write_text(regions.fill(file.read_text(), "91.1", "return q @ k.T"))
    said = say("check")
    assert "91.1  not yet  1 of 2 tests pass  work/layers.py:24" in said and "off by a constant factor" in said
    assert "next: minillm course check    (stuck? minillm course hint, 3 left)" in said
    assert "hint 1 of 3: What is the variance" in say("hint") and "hint 2 of 3: Divide by" in say("hint")
    file.write_text(regions.fill(file.read_text(), "91.1", "return q @ k.T / q.shape[1] ** 0.5"))
    said = say("check")
    assert "91.1  done  3 points" in said and "91.2  to do  Weighted mean" in said
    said = say("status")
    assert "91.1   done     3 of 3" in said and "91.2   to do    0 of 3" in said and "score           3 of 10" in said
    assert re.search(r"return q @ k.T / q.shape\[1\] \*\* 0.5 +\| return q @ k.T / np.sqrt", say("solution", "91.1"))
    file.write_text(regions.fill(file.read_text(), "91.1", "return q"))
    assert "91.1   begun" in say("status"), "an edit reopens an exercise"
    solve(course, course.root / "work")
    said = say("check")
    assert "all exercises are done. next: minillm course status" in said


def test_code_that_does_not_parse_or_exits_is_explained(course):
    work = course.root / "work"
    start(course, ["91"], work)
    file = work / "layers.py"
    stub = file.read_text()
    file.write_text(regions.fill(stub, "91.1", "return q @ (k.T"))
    lines, done = check.check(course, Progress.load(work))
    assert not done and "work/layers.py:25: SyntaxError: '(' was never closed" in " ".join(map(str.strip, lines))
    file.write_text(regions.fill(stub, "91.1", "import os\nos._exit(0)"))
    lines, done = check.check(course, Progress.load(work))
    assert not done and "the process ended inside this test: does the code exit?" in " ".join(" ".join(lines).split())


def test_watch_runs_again_when_a_file_is_saved(tmp_path):
    file, runs = tmp_path / "a.py", []
    file.write_text("1")

    def again():
        runs.append(file.read_text())
        return runs[-1] == "2"

    check.watch(tmp_path, again, pause=lambda _: file.write_text("2"))
    assert runs == ["1", "2"]


def test_a_state_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / ".minillm.json").write_text("{")
    with pytest.raises(CourseError, match="is not readable; delete it"):
        Progress.load(tmp_path)
    Progress(tmp_path, {"91.1": "x"}, {"91.1": 2}).save()
    assert json.loads((tmp_path / ".minillm.json").read_text())["hints"] == {"91.1": 2}


def test_a_command_that_meets_a_stub_names_the_exercise_in_one_line(monkeypatch, capsys):
    def stub(args):
        raise NotImplementedError("exercise 01.2")

    monkeypatch.setattr(backends, "run", stub)
    assert main(["backends"]) == 2
    assert capsys.readouterr().err == "minillm: exercise 01.2 is not written yet: minillm course check 01.2\n"
