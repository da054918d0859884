"""The kill table: a wrong solution is applied, caught and shown with the words that caught it; one that is not is shown too."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from course_fixture import cli, project, pytest_in

from minillm.course.exercises import kills
from minillm.course.exercises.index import CourseError
from minillm.course.exercises.outcomes import Outcome


def test_the_table_of_the_small_project(tmp_path):
    course = project(tmp_path)
    table = {kill.wrong: kill for kill in kills.kills(course)}
    assert set(table) == {"no_sqrt", "wrong_axis", "mean", "no_guard"}
    assert all(kill.caught and kill.helpful for kill in table.values())
    assert table["no_sqrt"].misconception.startswith("Forgets the square root of d")
    assert "test_scores_are_scaled_dot_products" in table["no_sqrt"].test and "√" in table["no_sqrt"].message
    right = '"""Not wrong at all."""\nreturn q @ k.T * q.shape[1] ** -0.5\n'
    (tmp_path / "tests/wrong/91_layers/91.1_right.py").write_text(right)
    run = cli(course, "kills", "91.1")
    assert run.returncode == 1 and "91.1   right                            NOT CAUGHT" in run.stdout


def test_a_reference_that_fails_and_an_exercise_that_is_not_there_kill_nothing(tmp_path):
    course = project(tmp_path)
    with (tmp_path / "tests/test_91_layers.py").open("a") as file:
        file.write("\n\n@exercise('91.1')\ndef test_refuses_every_answer():\n    assert False, 'no answer is right'\n")
    run = cli(course, "kills", "91.1")
    assert run.returncode == 2 and "the reference fails 1 of its own tests" in run.stdout and "no answer is right" in run.stdout
    run = cli(course, "kills", "91.7")
    assert run.returncode == 2 and "no exercise or lesson '91.7'" in run.stdout


def test_a_wrong_solution_must_name_its_exercise_and_misconception(tmp_path):
    course = project(tmp_path)
    file = tmp_path / "tests/wrong/91_layers/91.1_silent.py"
    file.write_text("return q\n")
    with pytest.raises(CourseError, match="begin with one line that names the misconception"):
        kills.wrongs(course)
    file.rename(file.with_name("91.9_none.py")).write_text('"""None."""\nreturn q\n')
    with pytest.raises(CourseError, match="there is no exercise 91.9"):
        kills.wrongs(course)


def test_the_contract_bites(tmp_path):
    """test_course_contract.py, run in the small project: it is content with what is right and objects to what is not."""
    project(tmp_path / "good")
    course = project(tmp_path / "bad")
    for folder in ("good", "bad"):
        shutil.copy(Path(__file__).with_name("test_course_contract.py"), tmp_path / folder / "tests")
    layers = course.package / "layers.py"
    layers.write_text(layers.read_text() + "\n# BEGIN SOLUTION ex=91.3\nONE = 1\n# END SOLUTION\n")  # fails on import
    tests = course.root / "tests/test_91_layers.py"
    tests.write_text(tests.read_text() + '\n\n@exercise("91.2", hint="x")\ndef test_of_nothing():\n    pass\n')
    (course.root / "tests/wrong/91_layers/91.1_fine.py").write_text('"""Right."""\nreturn q @ k.T * q.shape[1] ** -0.5\n')
    (course.root / "lessons/92_kernels.md").unlink()
    good = type(course)(tmp_path / "good/minillm", tmp_path / "good")
    with ThreadPoolExecutor(2) as pool:
        run, bad = pool.map(lambda one: pytest_in(one, "tests/test_course_contract.py", "-rf"), (good, course))
    failed = [line for line in run.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 5, run.stdout  # each of the five has fewer than three wrong solutions
    assert all("test_an_exercise_has_a_lesson" in line for line in failed), run.stdout

    said = bad.stdout
    assert "test_of_nothing does not need what it marks: passed" in said
    assert "91.1_fine.py passes all tests: Right." in said
    assert "no lessons/92_*.md" in said and "no test carries @exercise('91.3')" in said
    assert "broken minillm.layers" in said, "a blank that breaks an import"


@pytest.mark.parametrize(
    ("kind", "message", "helpful"),
    [
        ("Mismatch", "scores is wrong", True),
        ("AssertionError", "row 0 must sum to 1\nassert 2 == 1", True),
        ("AssertionError", "assert 2 == 1", False),
        ("AssertionError", "AssertionError without a message", False),
        ("Failed", "DID NOT RAISE <class 'ValueError'>", True),
        ("ValueError", "operands could not be broadcast", False),
        ("TimeLimit", "no answer after 20 s", True),
    ],
)
def test_words_that_help(kind, message, helpful):
    assert kills.helps(Outcome("t", "91.1", 1, "failed", message, kind)) is helpful
