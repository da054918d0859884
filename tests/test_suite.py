"""How the suite is run: shared between the cores as a whole, in one process otherwise, and never shared again by a share."""

from types import SimpleNamespace

import conftest
import pytest
from pytest import Config


class Item(SimpleNamespace):
    def add_marker(self, mark):
        self.group = mark.args[0]

    def get_closest_marker(self, name):
        return None


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
    assert asked() == (conftest.available_cores(), "loadgroup")


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


def test_what_compiles_kernels_stays_together_and_so_does_each_file(tmp_path):
    texts = {"test_a.py": "import numba", "test_b.py": 'backend="numba"', "test_c.py": "import numpy", "test_d.py": ""}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    items = [Item(path=tmp_path / name) for name in texts for _ in range(2)]
    option = SimpleNamespace(dist="loadgroup", slow=True, markexpr="", ex=[], impl=None)
    conftest.pytest_collection_modifyitems(SimpleNamespace(option=option, args=[]), items)
    assert [item.group for item in items[::2]] == ["kernels", "kernels", "test_c", "test_d"]
