"""Grade attacks on the grader, each in a project of its own, and tell what became of them.

    python hostile_help.py [--bare] [--old] [--alone] NAME ...   one line of JSON an attack; run as whichever user is to be tried

--bare takes the audit hook away, which stops most of them with a friendly sentence: what is left is the kernel's wall. --old
takes Landlock away, as on Linux before 5.13. --alone grades no honest exercise beside it.

An attack takes the place of exercise 91.1's region; exercise 92.3, in another file of the same submission, is solved honestly.
One that begins with "# top level" is laid below the solved function. All of them answer rightly, or leave a mark, only where
they got what they came for.
"""

import json
import os
import re
import socket
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ATTACKS = HERE.parent / "hostile"
TESTS = "test_91_layers.py::test_scores_are_scaled_dot_products test_91_layers.py::test_a_query_of_zeros_scores_zero"
PRIVATE = "from minillm.course.checks import exercise\n@exercise('92.2', points=0)\ndef test_private(): pass\n"
CHEATING_CONFTEST = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    return True
"""


def names():
    return sorted(path.stem for path in ATTACKS.glob("*.py"))


def submission(course, work, name, values):
    """Write the submission of an attack into folder work."""
    from course_fixture import solve

    from minillm.course.exercises import regions

    solve(course, work)
    text = (ATTACKS / f"{name}.py").read_text()
    text = re.sub("@([A-Z]+)@", lambda hit: str(values[hit[1]]), text)
    solved = course.source("layers.py")
    attacked = solved + text if text.startswith("# top level") else regions.fill(solved, "91.1", text)
    (work / "layers.py").write_text(attacked)
    if name == "edits_conftest":
        for file in ("conftest.py", "tests/conftest.py", "submission/conftest.py"):
            (work / file).parent.mkdir(exist_ok=True)
            (work / file).write_text(CHEATING_CONFTEST)
        (work / "tests/test_91_layers.py").write_text("def test_scores_are_scaled_dot_products(): pass\n")
        (work / "pytest.ini").write_text("[pytest]\naddopts = -p no:minillm.course.plugin\n")


def attempt(name, folder, bare=False, old=False, lint=False, ids=("91.1", "92.3")):
    """Grade one attack in an empty folder; -> what happened, as plain data."""
    from course_fixture import project, solve

    from minillm.course.grading import family, grade

    course = project(folder / "project")
    if bare:
        (course.package / "course/grading/guard.py").write_text("def install(*folders):\n    pass\n")
    if old:
        with (course.package / "course/grading/landlock.py").open("a") as file:
            file.write("\n\ndef abi():\n    return 0\n")
    outside, other, private = folder / "outside", folder / "other", folder / "private"
    for one in (outside, other, private):
        one.mkdir()
    outside.chmod(0o777)  # a process that gets out may write there
    (private / "test_91_private.py").write_text(PRIVATE)
    solve(course, other)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        values = {"REFERENCE": course.package, "OUTSIDE": outside, "PORT": server.getsockname()[1], "OTHER": other,
                  "PRIVATE": private, "TESTFOLDER": course.root / "tests", "TESTS": TESTS}  # fmt: skip
        submission(course, folder / "work", name, values)
        before, processes, began = snapshot(folder), set(family.children()), time.monotonic()
        limits = grade.Limits(seconds=30, memory_gb=3, time_limit=4)
        scores = grade.grade(course, folder / "work", ids, seed=3, private=private, check=lint, limits=limits)
        seconds = time.monotonic() - began
        try:
            server.accept()
            called = True
        except BlockingIOError:
            called = False
        left = sorted(set(family.children()) - processes)
        told = {"name": name, "user": os.geteuid(), "seconds": round(seconds, 1), "called": called, "notes": scores.notes}
        told |= {"changed": snapshot(folder) != before, "left": left, "marks": [path.name for path in outside.iterdir()]}
        for id in ids:
            told[id] = sum(score.earned for score in scores.tests if score.exercise == id)
        return told | {"words": [score.message[:200] for score in scores.tests if score.exercise == "91.1"]}


def snapshot(folder):
    """Every file's content and rights below a folder, but for what the grader itself may write (bytecode)."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path): (path.read_bytes(), path.stat().st_mode) for path in files}


def main():
    sys.path.insert(0, str(HERE))
    words = sys.argv[1:]
    for name in [word for word in words if not word.startswith("--")]:
        with tempfile.TemporaryDirectory(prefix="minillm-attack-") as folder:
            ids = ("91.1",) if "--alone" in words else ("91.1", "92.3")
            print(json.dumps(attempt(name, Path(folder), "--bare" in words, "--old" in words, ids=ids)), flush=True)


if __name__ == "__main__":
    main()
