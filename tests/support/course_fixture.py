"""The small project of tests/course_project/, with the course laid over it, in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import minillm
from minillm.course.exercises.index import Course

TESTS = Path(__file__).parents[1]
PACKAGE = Path(minillm.__file__).parent
SOLUTIONS = ("layers.py", "kernels/fast.py", "kernels/scale.cu", "kernels/device.py")


def project(folder):
    """Write the project into folder; returns its Course."""
    shutil.copytree(TESTS / "course_project", folder, dirs_exist_ok=True)
    skip = shutil.ignore_patterns("__pycache__")
    for part in ("course", "cli"):
        shutil.copytree(PACKAGE / part, folder / "minillm" / part, ignore=skip)
    for file in ("__main__.py", "errors.py", "files.py", "terminal.py"):
        shutil.copy(PACKAGE / file, folder / "minillm")
    return Course(folder / "minillm", folder)


def solve(course, work, *files):
    """Put the reference's files into work, as a learner who got everything right."""
    for file in files or SOLUTIONS:
        (work / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(course.package / file, work / file)


def python(course, *arguments, **more):
    """Run this Python in the project, as a learner would; returns the finished process with its output as one text."""
    env = os.environ | {"PYTHONPATH": str(course.root), "COLUMNS": "120"}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run([sys.executable, *arguments], cwd=course.root, env=env, text=True, **both, **more)


def cli(course, *arguments):
    return python(course, "-m", "minillm", "course", *arguments)


def pytest_in(course, *arguments):
    return python(course, "-m", "pytest", "-p", "no:cacheprovider", *arguments)
