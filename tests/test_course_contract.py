"""What every exercise promises. These tests know no exercise by name: they bite as soon as one is written."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from minillm.course.exercises import kills, regions, runner, warm
from minillm.course.exercises.index import Course
from minillm.course.grading.lint import lint
from minillm.files import write_text

COURSE = Course()
EXERCISES = COURSE.exercises
WRONGS = kills.wrongs(COURSE)
RIGHTS = kills.wrongs(COURSE, kind="right")
NONE = "no exercises are marked in the package yet"


def each(things, name):
    return things or [pytest.param(None, marks=pytest.mark.skip(reason=NONE), id=f"no {name}")]


@pytest.fixture(scope="module", autouse=True)
def exercises():
    if not EXERCISES:
        pytest.skip(NONE)


def test_every_test_of_an_exercise_belongs_to_one_that_exists():
    assert {test.exercise for test in COURSE.tests} <= set(EXERCISES)


@pytest.mark.parametrize("id", each(list(EXERCISES), "exercise"))
def test_an_exercise_has_a_lesson_a_title_hints_points_tests_and_wrong_solutions(id):
    exercise = EXERCISES[id]
    assert exercise.lesson in COURSE.lessons.values(), f"no lessons/{id[:2]}_*.md"
    assert exercise.title, f"the function around {id} needs a docstring: its first line is the title"
    assert exercise.tests and exercise.points > 0, f"no test carries @exercise({id!r})"
    assert len(exercise.hints) >= 3, f"{id} needs three rungs of hints: a question that points, the means, the first line"
    assert all(test.file.startswith(f"test_{exercise.lesson}") for test in exercise.tests), "tests are in test_NN_name*.py"
    assert sum(wrong.exercise == id for wrong in WRONGS) >= 3, f"tests/wrong/ needs three wrong solutions of {id}"
    assert 1 <= exercise.lines <= 20, "a region holds the idea, not the function"


def test_no_solution_of_the_reference_is_refused_by_the_lint_of_the_grader():
    """Who hands in what `course solution` shows must get the points."""
    refused = []
    for file in sorted({exercise.file for exercise in EXERCISES.values()}):
        source = COURSE.source(file)
        refused += lint(source, regions.blank(source, name=file), file)
    assert refused == []


def test_with_everything_blanked_the_package_imports(tmp_path):
    """Every module that imports in the reference imports with all regions empty."""
    package = tmp_path / "minillm"
    shutil.copytree(COURSE.package, package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in {exercise.file for exercise in EXERCISES.values()}:
        write_text(package / file, regions.blank(COURSE.source(file), name=file))
    walk = (
        "import importlib, pkgutil, sys, minillm\n"
        "for module in pkgutil.walk_packages(minillm.__path__, 'minillm.'):\n"
        "    if module.name.endswith('__main__'): continue\n"
        "    try: importlib.import_module(module.name)\n"
        "    except ImportError as error: print('absent', module.name, error.name)\n"
        "    except Exception as error: print('broken', module.name, repr(error))\n"
        "print('from', minillm.__file__)\n"
    )

    def said(folder):
        env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        run = subprocess.run([sys.executable, "-c", walk], env=env, cwd=folder, capture_output=True, text=True)
        assert f"from {folder / 'minillm'}" in run.stdout, run.stderr
        return {line for line in run.stdout.splitlines() if not line.startswith("from")}

    if broken := said(tmp_path):  # what is absent here is absent for the reference too
        assert broken <= said(COURSE.package.parent)


def test_what_is_expected_is_computed_before_a_submission_is_called():
    """check_close(mine(q, k), oracle(q, k)) would compute the oracle from q and k as the submission left them: zeros, perhaps."""
    for path in sorted({COURSE.root / "tests" / test.file for test in COURSE.tests}):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "check_close" and len(call.args) > 1:
                both = names_handed_out(call.args[0]) & names_handed_out(call.args[1])
                assert not both, f"{path.name}:{call.lineno}: compute what is expected of {', '.join(both)} in a line before"


def names_handed_out(expression):
    """Variables that are arguments of a call in an expression."""
    calls = [node for node in ast.walk(expression) if isinstance(node, ast.Call)]
    return {argument.id for call in calls for argument in call.args if isinstance(argument, ast.Name)}


# --- what needs a run of pytest each: two run at a time, ahead of the tests that ask for them ---------------------------------


def with_blank(id):
    """A run of the lesson with one exercise of it emptied."""
    return run_lesson(id[:2], lambda file: regions.blank(COURSE.source(file), {id}, file))


def solved(lesson):
    """A run of the lesson with the reference's files as a learner's."""
    return run_lesson(lesson, COURSE.source, seed=1)


def run_lesson(lesson, content, seed=0):
    with tempfile.TemporaryDirectory() as folder:
        for file in {exercise.file for exercise in EXERCISES.values() if exercise.id[:2] == lesson}:
            write_text(Path(folder) / file, content(file))
        return runner.run(COURSE, folder, [lesson], seed, start=warm.run if warm.possible() else runner.cold)


@pytest.fixture(scope="module")
def runs(request):
    """{name of a test's case: the future of its run}, for the cases that this session has chosen."""
    items = [item for item in request.session.items if item.module is request.module and "run" in item.fixturenames]
    with ThreadPoolExecutor(2) as pool:
        yield {item.name: pool.submit(item.function.work, *item.callspec.params.values()) for item in items}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def run(runs, request):
    return runs[request.node.name].result()


def of(work):
    """Mark a test with the function whose result its fixture `run` is."""

    def mark(test):
        test.work = work
        return test

    return mark


@pytest.mark.slow
@of(with_blank)
@pytest.mark.parametrize("id", each(list(EXERCISES), "exercise"))
def test_blanked_alone_an_exercise_is_a_todo_and_breaks_no_other(id, run):
    """Its own tests are TODO, all of them; tests of its lesson that build on it are TODO and name it; the rest pass."""
    assert run.ended and not run.errors, run.output
    for outcome in run.outcomes:
        if outcome.exercise == id:
            assert outcome.status == "todo", f"{outcome.test} does not need what it marks: {outcome.status}"
        elif outcome.status != "skipped":
            assert outcome.status == "passed" or f"exercise {id} is not" in outcome.message, f"{outcome.test}: {outcome.message}"


@pytest.mark.slow
@of(partial(kills.attempt, COURSE))
@pytest.mark.parametrize("wrong", each(WRONGS, "wrong solution"), ids=lambda wrong: wrong.path.stem if wrong else None)
def test_a_wrong_solution_is_caught_with_words_that_help(wrong, run):
    assert run.caught, f"{wrong.path.name} passes all tests: {wrong.misconception}"
    assert run.helpful, f"{run.test} says only: {run.message}"
    assert run.lost > 0, f"{wrong.path.name} earns full marks: only tests worth 0 points catch it ({run.test})"


FIRST = {right.exercise[:2]: right for right in reversed(RIGHTS)}.values()  # of each lesson; the rest is slow


@of(partial(kills.trial, COURSE))
@pytest.mark.parametrize("right", each([
    pytest.param(right, id=right.path.stem, marks=[pytest.mark.slow] * (right not in FIRST)) for right in RIGHTS
], "right answer"))
def test_an_answer_that_is_right_in_another_form_earns_all(right, run):
    refused = {outcome.test: outcome.message for outcome in run.outcomes if outcome.status != "passed"}
    assert run.passed and not refused, f"{right.path.name} ({right.misconception}) is refused: {refused}"


LESSONS = sorted({id[:2] for id in EXERCISES})


@of(solved)
@pytest.mark.parametrize("lesson", each([
    pytest.param(lesson, marks=[pytest.mark.slow] * (lesson not in LESSONS[:2])) for lesson in LESSONS
], "lesson"))
def test_the_reference_passes_as_a_learners_work_would(lesson, run):
    assert run.ended and not run.errors, run.output
    assert {outcome.status for outcome in run.outcomes} <= {"passed", "skipped"}, run.output
