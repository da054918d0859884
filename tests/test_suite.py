"""How the suite is run: shared between the cores as a whole, in one process otherwise, and never shared again by a share."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest
from pytest import Config


def asked(source=Config.ArgsSource.TESTPATHS, **options):
    """What the hook makes of these options: (number of processes, how they share)."""
    option = {"numprocesses": None, "dist": "no", "slow": False, "markexpr": "", "ex": [], "impl": None}
    option |= {"usepdb": False, "capture": "fd"} | options
    config = SimpleNamespace(option=SimpleNamespace(**option), args_source=source, ArgsSource=Config.ArgsSource)
    conftest.pytest_cmdline_main(config)
    return config.option.numprocesses, config.option.dist


@pytest.fixture(autouse=True)
def no_share(monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def test_the_whole_suite_is_shared_between_the_cores():
    assert asked() == (conftest.available_cores(), "loadfile")


ALONE = [{"ex": ["01.1"]}, {"impl": "work"}, {"usepdb": True}, {"capture": "no"}, {"slow": True}, {"markexpr": "slow"}]


@pytest.mark.parametrize("options", ALONE, ids=str)
def test_an_exercise_a_debugger_and_slow_tests_have_one_process(options):
    assert asked(**options) == (None, "no")


def test_some_files_have_one_process():
    assert asked(Config.ArgsSource.ARGS) == (None, "no")


@pytest.mark.parametrize("number", [0, 3])
def test_a_number_that_was_asked_for_stays(number):
    assert asked(numprocesses=number) == (number, "no")


def test_a_share_does_not_share_again(monkeypatch):
    """Or each process would start two, and each of those two more."""
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    assert asked() == (None, "no")


def test_the_workers_keep_each_file_in_one_process_and_all_that_compiles_in_one(tmp_path):
    """Run it, with this folder's conftest: a hook of pytest-xdist that is not called would say nothing."""
    test = "import os, pathlib, time\nimport pytest\n@pytest.mark.parametrize('n', range(6))\ndef test_it(n):\n"
    test += "    time.sleep(0.05)\n    (pathlib.Path(__file__).parent / f'{pathlib.Path(__file__).stem}.{os.getpid()}').touch()\n"
    files = ("test_a", "test_b", "test_c", "test_11_a", "test_11_b", "test_equality")
    for name in files:
        (tmp_path / f"{name}.py").write_text(test)
    ours = Path(conftest.__file__).parents[1]
    options = ["-n", "2", "--dist", asked()[1], "-c", str(ours / "pyproject.toml"), "-p", "conftest"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    path = os.pathsep.join([str(ours / "tests"), str(ours), os.environ.get("PYTHONPATH", "")])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"PYTHONPATH": path}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ours, timeout=120)
    assert "36 passed" in ran.stdout, ran.stdout + ran.stderr
    processes = {name: {path.suffix for path in tmp_path.glob(f"{name}.*")} - {".py"} for name in files}
    assert {len(pids) for pids in processes.values()} == {1}, processes
    assert processes["test_11_a"] == processes["test_11_b"] == processes["test_equality"] != processes["test_a"], processes
