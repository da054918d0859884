"""The small project of tests/course_project/, with the course laid over it, in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from forked import run_module

import minillm
from minillm.course.exercises import runner, warm
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
    for file in ("__main__.py", "cores.py", "errors.py", "files.py", "terminal.py"):
        shutil.copy(PACKAGE / file, folder / "minillm")
    (folder / "minillm" / "costs").mkdir(exist_ok=True)
    for file in ("__init__.py", "memory.py"):  # names of formats, which the options of commands list; exercises are not its own
        lines = (PACKAGE / "costs" / file).read_text().splitlines(keepends=True)
        (folder / "minillm" / "costs" / file).write_text("".join(line for line in lines if " SOLUTION" not in line))
    return Course(folder / "minillm", folder)


def solve(course, work, *files):
    """Put the reference's files into work, as a learner who got everything right."""
    for file in files or SOLUTIONS:
        (work / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(course.package / file, work / file)


def check_in_forks(monkeypatch):
    """Let the checks of this process start their tests warm; those of `cli(course, "check")` have an interpreter of their own."""
    if warm.possible():
        monkeypatch.setattr(runner, "cold", warm.run)


def environment(course):
    return os.environ | {"PYTHONPATH": str(course.root), "COLUMNS": "120"}


def python(course, *arguments):
    """Run this Python in the project, as a learner would; returns the finished process with its output as one text."""
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run([sys.executable, *arguments], cwd=course.root, env=environment(course), text=True, **both)


def cli(course, *arguments):
    """`python -m minillm course …`, as a fork (forked.py)."""
    return run_module(["minillm", "course", *arguments], course.root, environment(course))


def pytest_in(course, *arguments):
    """`python -m pytest …`, as a fork. Other packages' plugins take longer than a test, and are left out."""
    env = environment(course) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return run_module(["pytest", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin", *arguments], course.root, env)
