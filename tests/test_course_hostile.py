"""Ten submissions that attack the grader: each is refused by the lint, or scores what it earned, and leaves nothing behind."""

import re
import socket
import time
from pathlib import Path

import pytest
from course_fixture import project, solve

from minillm.course import family, grade, regions

HOSTILE = sorted((Path(__file__).parent / "hostile").glob("*.py"))
UNSEEN_BY_LINT = {"endless_loop", "endless_compiled_loop", "fills_memory", "edits_conftest"}  # nothing in them is forbidden
LIMITS = grade.Limits(seconds=12, memory_gb=3, time_limit=1.5)
SAYS = {
    "endless_loop": "gave no answer in 1.5 s",
    "endless_compiled_loop": "gave no answer in 1.5 s",
    "exits": "the process ended",
    "forks": "no answer|the process ended|has shape",
    "fills_memory": "Unable to allocate",
    "patches_pytest": "replaced Function.runtest",
    "edits_conftest": "scores is off by a constant factor",
    "reads_the_reference": "may not read",
    "opens_a_socket": "may not use socket",
    "writes_outside": "may not write",
}
CHEATING_CONFTEST = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    return True
"""


@pytest.fixture
def attack(tmp_path):
    """attack(path, lint) grades exercises 91.1 (hostile) and 92.3 (honest) and returns {exercise: [Score]}, and what happened."""
    course = project(tmp_path / "project")
    outside = tmp_path / "outside"
    outside.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)

        def run(path, lint):
            work = tmp_path / "work"
            solve(course, work)
            body = path.read_text()
            for token, value in {"@REFERENCE@": course.package, "@OUTSIDE@": outside, "@PORT@": server.getsockname()[1]}.items():
                body = body.replace(token, str(value))
            (work / "layers.py").write_text(regions.fill(course.source("layers.py"), "91.1", body))
            if path.stem == "edits_conftest":
                for name in ("conftest.py", "tests/conftest.py", "submission/conftest.py"):
                    (work / name).parent.mkdir(exist_ok=True)
                    (work / name).write_text(CHEATING_CONFTEST)
                (work / "tests/test_91_layers.py").write_text("def test_scores_are_scaled_dot_products(): pass\n")
                (work / "pytest.ini").write_text("[pytest]\naddopts = -p no:minillm.course.plugin\n")
            before = snapshot(course.root)
            started = time.monotonic()
            scores = grade.grade(course, work, ["91.1", "92.3"], seed=3, check=lint, limits=LIMITS)
            assert time.monotonic() - started < 2 * LIMITS.seconds + 10, "outlived its limits"
            assert snapshot(course.root) == before, "the reference or its tests were changed"
            assert not list(outside.iterdir()), "wrote outside its folder"
            with pytest.raises(BlockingIOError):
                server.accept()
            return {id: [score for score in scores.tests if score.exercise == id] for id in ("91.1", "92.3")}

        yield run


def snapshot(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def earned(scores):
    return sum(score.earned for score in scores)


def test_there_are_ten():
    assert len(HOSTILE) == 10


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="grade needs Linux or macOS")
@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_without_the_lint_it_earns_nothing_and_harms_nothing(attack, path):
    before = set(family.children())
    scores = attack(path, lint=False)
    if path.stem == "edits_conftest":  # the code is wrong in the test of scores, right for a query of zeros
        assert earned(scores["91.1"]) == 1, "its conftest must not count"
    else:
        assert earned(scores["91.1"]) == 0, "an attack earned points"
    assert earned(scores["92.3"]) == 1, "an honest exercise beside an attack keeps its points"
    assert all(re.search(SAYS[path.stem], score.message) for score in scores["91.1"] if not score.earned), scores["91.1"]
    assert set(family.children()) == before, "a process was left behind"


@pytest.mark.parametrize("path", [path for path in HOSTILE if path.stem not in UNSEEN_BY_LINT], ids=lambda path: path.stem)
def test_the_lint_refuses_it_with_line_and_reason(attack, path):
    scores = attack(path, lint=True)
    assert earned(scores["91.1"]) == 0
    assert all("refused before it ran: layers.py:" in score.message for score in scores["91.1"])
