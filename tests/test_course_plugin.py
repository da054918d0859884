"""pytest --impl work: whose code runs, what is a TODO, and when a test that never ends is ended."""

import json

import pytest
from course_fixture import project, pytest_in, python, solve

from minillm.course.exercises import regions
from minillm.course.exercises.start import start


@pytest.fixture
def course(tmp_path):
    return project(tmp_path / "project")


def write(course, id, body, work="work"):
    file = course.root / work / course.exercises[id].file
    file.write_text(regions.fill(file.read_text(), id, body))


def test_the_reference_passes_and_is_said_to_be_under_test(course):
    """In an interpreter of its own, as every learner starts one; the runs below are forks (forked.py)."""
    run = python(course, "-m", "pytest", "-p", "no:cacheprovider", "-v")
    assert run.returncode == 0 and "9 passed" in run.stdout
    assert f"minillm: the reference, {course.package}; seed 0" in run.stdout


def test_what_is_not_written_is_a_todo_and_not_a_failure(course):
    start(course, [], course.root / "work")
    run = pytest_in(course, "--impl", "work")
    assert run.returncode == 0 and "8 todo" in run.stdout and "failed" not in run.stdout
    assert "minillm: YOUR files in work, all else from the reference" in run.stdout
    assert "exercise 92.2 is not written yet (work/kernels/scale.cu:5)" in run.stdout


def test_a_test_that_needs_another_exercise_says_which(course):
    start(course, ["91"], course.root / "work")
    write(course, "91.2", "weights = np.exp(s - s.max(axis=-1, keepdims=True))\nweights /= weights.sum(-1, keepdims=True)")
    run = pytest_in(course, "--impl", "work", "--ex", "91.2")
    assert run.returncode == 0 and "91.2 needs it" in run.stdout and "3 todo" in run.stdout


def test_a_todo_is_seen_through_exceptions_that_wrap_it(course):
    start(course, ["91"], course.root / "work")
    file = course.root / "work/layers.py"
    wrapped = "    try:\n        s = scores(q, k)\n    except Exception as e:\n        raise RuntimeError('?') from e\n"
    file.write_text(file.read_text().replace("    s = scores(q, k)\n", wrapped))
    write(course, "91.2", "weights = s")
    assert "91.2 needs it" in pytest_in(course, "--impl", "work", "--ex", "91.2").stdout


def test_a_wrong_answer_fails_with_its_diagnosis_and_hint_and_the_right_one_earns_points(course):
    solve(course, course.root / "work", "layers.py")
    write(course, "91.2", "weights = np.exp(s - s.max(axis=-1, keepdims=True))")
    run = pytest_in(course, "--impl", "work", "--hints")
    assert run.returncode == 1
    assert "91.1   done       3 of 3" in run.stdout and "91.2   wrong      0 of 3" in run.stdout
    assert "weighted mean of the values is wrong in" in run.stdout and "Along which axis do weights sum to 1?" in run.stdout
    assert "92.1" not in run.stdout, "what was not started is not tested"


@pytest.mark.parametrize("ids", [["91.1"], ["92"]])
def test_ex_chooses_an_exercise_or_a_lesson(course, ids):
    solve(course, course.root / "work")
    report = course.root / "report"
    pytest_in(course, "--impl", "work", "--ex", ids[0], "--report", str(report))
    events = [json.loads(line) for line in report.read_text().splitlines()]
    tested = {event["exercise"] for event in events if event["event"] == "outcome"}
    assert tested == {"91.1"} if ids == ["91.1"] else tested == {"92.1", "92.2", "92.3"}


def test_an_exercise_that_was_not_started_is_an_error_when_asked_for(course):
    start(course, ["91"], course.root / "work")
    run = pytest_in(course, "--impl", "work", "--ex", "92.1")
    assert run.returncode == 4 and "work holds no file for exercise 92.1; write one: minillm course start 92" in run.stdout


def test_the_run_fails_if_the_tests_did_not_load_the_learners_file(course):
    solve(course, course.root / "work")
    conftest = "import sys\ndef pytest_configure(config):\n    import minillm.layers\n"
    (course.root / "tests/conftest.py").write_text(conftest)
    assert pytest_in(course, "--impl", "work", "--ex", "91").returncode == 0, "the plugin forgets what was loaded before"
    cheat = "import minillm.layers, sys\nsaved = sys.modules['minillm.layers']\n"
    cheat += "def pytest_collection(session):\n    sys.modules['minillm.layers'] = saved\n"
    (course.root / "tests/conftest.py").write_text(cheat)
    run = pytest_in(course, "--impl", "work", "--ex", "91")
    assert run.returncode == 1 and "the tests did not run work/layers.py" in run.stdout


def test_packages_and_new_files_of_the_learner_are_loaded_too(course):
    solve(course, course.root / "work", "kernels/fast.py")
    (course.root / "work/kernels/__init__.py").write_text("MINE = True\n")
    (course.root / "work/kernels/extra.py").write_text("from minillm.kernels import MINE, device\n")
    (course.root / "tests/test_92_kernels.py").write_text(
        "from minillm.course.checks import exercise\nimport minillm.kernels.fast, minillm.kernels.extra as extra\n"
        "@exercise('92.1', hint='')\ndef test_it():\n"
        "    assert extra.MINE and 'work' in extra.__file__ and 'work' not in extra.device.__file__\n"
    )
    assert "1 passed" in pytest_in(course, "--impl", "work").stdout


def test_a_python_loop_is_ended_and_the_next_test_runs(course):
    solve(course, course.root / "work", "layers.py")
    write(course, "91.1", "while True:\n    pass")
    run = pytest_in(course, "--impl", "work", "--ex", "91.1", "--time-limit", "0.5")
    assert run.returncode == 1 and run.stdout.count("no answer after 0.5 s") >= 2 and "2 failed" in run.stdout


def test_a_compiled_loop_is_ended_with_a_message(course):
    solve(course, course.root / "work", "kernels/fast.py")
    write(course, "92.1", "s = 1\nwhile s != 0:\n    s = s * 3 + 2")
    run = pytest_in(course, "--impl", "work", "--ex", "92.1", "--time-limit", "2")
    assert run.returncode not in (0, 1) and "test_total_is_the_sum (exercise 92.1) gave no answer in 2 s" in run.stdout


def test_the_seed_changes_every_random_input(course):
    probe = "from hypothesis import given\nfrom minillm.course.checks import draws, seeds\nseen = []\n"
    probe += "@given(seed=seeds)\ndef test_given(seed):\n    seen.append(seed)\n"
    probe += "def test_print(rng):\n    print('inputs', seen[:40], draws(1, (2,)), rng.random())\n"
    (course.root / "tests/test_probe.py").write_text(probe)

    def inputs(seed):
        run = pytest_in(course, "tests/test_probe.py", "-s", "--seed", seed)
        return next(line for line in run.stdout.splitlines() if "inputs" in line)

    assert inputs("1") == inputs("1") != inputs("2")


def test_other_projects_are_left_alone(course, tmp_path):
    (tmp_path / "other").mkdir()
    test = "def test_it(pytestconfig):\n    assert not hasattr(pytestconfig.option, 'impl')\n"
    (tmp_path / "other/test_it.py").write_text(test)
    run = python(course, "-m", "pytest", str(tmp_path / "other"), "--rootdir", str(tmp_path / "other"), "-c", "/dev/null")
    assert "1 passed" in run.stdout
