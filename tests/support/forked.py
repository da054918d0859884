"""`python -m MODULE` without the wait: a fork of a process that has imported pytest, NumPy and hypothesis once.

A fork sees what an interpreter of its own would see: a fresh minillm from the first folder of its path, its own folder,
environment, arguments and output; what it does to its process ends with it. It is the fork server of
minillm/course/exercises/warm.py, for any module and with an exit status. A start takes two thirds of a second less.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

from minillm.course.exercises import warm

ROOT = Path(__file__).parents[2]


def run_module(arguments, cwd, env):  # (module, *arguments) -> CompletedProcess, with stdout and stderr as one text
    """Run `python -m` with these arguments in folder cwd, under the environment env, to its end."""
    if not warm.possible():
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, env=env, text=True, **both)
    text, status = warm.forked(become, arguments, cwd, env)
    return subprocess.CompletedProcess(["python", "-m", *arguments], status, text, "")


def become(arguments, cwd, env, log):
    """Be that process, in the fork."""
    warm.enter(cwd, env, log)
    others = [path for path in sys.path if path and not of_this_checkout(Path(path))]
    sys.path[:] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *others]
    for name in [name for name in sys.modules if name.split(".")[0] == "minillm" or name == __name__]:
        del sys.modules[name]
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def of_this_checkout(path):
    """Whether a path leads to our sources. An environment may lie in the checkout, and its packages stay."""
    return path.is_relative_to(ROOT) and not path.is_relative_to(sys.prefix)
