"""Many runs of pytest that share one start: a process imports pytest, NumPy and hypothesis once, and forks for each run.

Python calls that process a fork server. A run sees what it would see in an interpreter of its own: minillm and the tests are
imported anew each time, and what a run does to its process ends with it. The course itself is kept, as no learner's file takes
its place, and with it what its index has parsed. Systems that cannot fork start an interpreter each.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from minillm.course.exercises.overlay import KEPT

PRELOAD = ["pytest", "numpy", "numpy.random", "hypothesis", "hypothesis.strategies", "hypothesis.internal.conjecture.engine",
           "_hypothesis_pytestplugin", "minillm.course.exercises.indexed"]  # fmt: skip


def possible():
    return "forkserver" in multiprocessing.get_all_start_methods()


def run(arguments, cwd, env):  # -> what it printed
    """pytest with arguments in folder cwd, under the environment env, to its end."""
    return forked(_pytest, arguments, cwd, env)[0]


def forked(become, arguments, cwd, env):  # -> what it printed, its exit status
    """Fork, and call become(arguments, cwd, env, log) there, which begins with `enter`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process = context.Process(target=become, args=(arguments, str(cwd), dict(env), str(log)))
        process.start()
        process.join()
        return log.read_text(encoding="utf-8", errors="replace"), process.exitcode


def enter(cwd, env, log):
    """Give the fork its output, its folder and its environment."""
    for number, (path, mode) in enumerate([(os.devnull, os.O_RDONLY), (log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)]):
        os.dup2(os.open(path, mode, 0o600), number)
    os.dup2(1, 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)


def _pytest(arguments, cwd, env, log):
    """Become a fresh `python -m pytest`, in the fork."""
    enter(cwd, env | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, log)  # other packages' plugins take longer than a test
    sys.path[:0] = paths = [cwd, *env.get("PYTHONPATH", "").split(os.pathsep)]
    here = Path(__file__).resolve().parents[3]  # of this package; the course of a small project in a test is another
    kept = KEPT if any(Path(path).resolve() == here for path in paths) else ()
    for name in [name for name in sys.modules if name.split(".")[0] == "minillm" and not name.startswith(kept)]:
        del sys.modules[name]
    import pytest

    sys.exit(pytest.main(["-p", "_hypothesis_pytestplugin", *arguments]))
