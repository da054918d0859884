"""Many runs of pytest that share one start: a process imports pytest, NumPy and hypothesis once, and forks for each run.

Python calls that process a fork server. A run sees what it would see in an interpreter of its own: minillm and the tests are
imported anew each time, and what a run does to its process ends with it. Systems that cannot fork start an interpreter each.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

PRELOAD = ["pytest", "numpy", "numpy.random", "hypothesis", "hypothesis.strategies", "hypothesis.internal.conjecture.engine"]


def possible():
    return "forkserver" in multiprocessing.get_all_start_methods()


def run(arguments, cwd, env):  # -> what it printed
    """pytest with arguments in folder cwd, under the environment env, to its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process = context.Process(target=_pytest, args=(arguments, str(cwd), dict(env), str(log)))
        process.start()
        process.join()
        return log.read_text(encoding="utf-8", errors="replace")


def _pytest(arguments, cwd, env, log):
    """In the fork: become a fresh `python -m pytest`."""
    for number, (path, mode) in enumerate([(os.devnull, os.O_RDONLY), (log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)]):
        os.dup2(os.open(path, mode, 0o600), number)
    os.dup2(1, 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for name in [name for name in sys.modules if name.split(".")[0] == "minillm"]:
        del sys.modules[name]
    sys.path[:0] = [cwd, *env.get("PYTHONPATH", "").split(os.pathsep)]
    import pytest

    sys.exit(pytest.main(arguments))
