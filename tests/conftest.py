"""What every test may ask for: the real model where it is present, small ones otherwise. And how the suite is run."""

import gc
import os

import pytest
from threadpoolctl import threadpool_limits

from minillm.bench.machine import available_cores
from minillm.model import zoo

threadpool_limits(1, user_api="blas")  # a share of the suite has one core; and bits that do not depend on what runs beside


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too (alone: -m slow)")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite is shared between the cores; a part of it, what is slow, an exercise and a debugger are not."""
    option, whole = config.option, config.args_source is config.ArgsSource.TESTPATHS
    alone = option.slow or option.markexpr or option.ex or option.impl or option.usepdb or option.capture == "no"
    asked = "PYTEST_XDIST_WORKER" in os.environ or getattr(option, "numprocesses", 0) is not None  # or pytest-xdist is not here
    if whole and not alone and not asked:
        option.numprocesses, option.dist = available_cores(), "loadfile"  # what a file's fixtures load is loaded once


def share_of(nodeid):  # -> name of what one process runs
    """A file is never divided; and those that compile the same kernels are one share, so that each kernel is compiled once."""
    file = nodeid.partition("::")[0]
    compile_the_same = ("test_11_", "test_equality", "test_06_continuous_batching_invariant")
    return "kernels" if file.rpartition("/")[2].startswith(compile_the_same) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """By file, and with `share_of`: groups (--dist loadgroup) are lost without a word between pytest 9.2 and pytest-xdist 3.8."""
    from xdist.scheduler import LoadFileScheduling

    class Shares(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return share_of(nodeid)

    return Shares(config, log) if config.option.dist == "loadfile" else None


@pytest.hookimpl(hookwrapper=True)
def pytest_collection():
    """Ten thousand tests stay to the end: the garbage collector, which would look at them again and again, is told so."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config, items):
    """What is marked slow waits until it is asked for: by --slow, by -m, by its own name, or as an exercise (--ex, --impl)."""
    option = config.option
    if option.slow or option.markexpr or option.ex or option.impl or any("::" in argument for argument in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if not item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)


@pytest.fixture(scope="session")
def smollm2_path():
    """The SmolLM2-135M file, or a skip that says how to get it."""
    try:
        return zoo.resolve("smollm2-135m")
    except zoo.ModelNotDownloaded:
        pytest.skip("SmolLM2-135M is not on this machine: minillm download smollm2-135m")


@pytest.fixture(scope="session")
def smollm2(smollm2_path):
    """SmolLM2-135M, loaded once."""
    from minillm import LLM

    return LLM(smollm2_path)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    """A random model of a few thousand weights with a tokenizer and a chat template: the whole path, in no time."""
    from golden.tiny_models import write_tiny

    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_tiny("llama", path)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_path):
    """That model, loaded once."""
    from minillm import LLM

    return LLM(tiny_path)


@pytest.fixture
def quick_machine(monkeypatch):
    """The machine is measured with little memory and small products: for commands that print its ceilings, and are not read."""
    from minillm import tour
    from minillm.bench import kernels, machine, training_speed

    measure = machine.measure_machine
    for module in (machine, tour, kernels, training_speed):
        monkeypatch.setattr(module, "measure_machine", lambda megabytes=8, n=128, kernels=False: measure(8, 128, kernels))


@pytest.fixture
def two_threads():
    """Kernels share their work between two threads, on one core too; afterwards it is as many as before."""
    from minillm.backends.numba_.team import set_threads, threads

    before = threads()
    set_threads(2)
    yield
    set_threads(before)


@pytest.fixture
def one_thread(two_threads):
    """Kernels run on their caller alone: what each thread allocates for itself is there once, on any machine."""
    from minillm.backends.numba_.team import set_threads

    set_threads(1)
