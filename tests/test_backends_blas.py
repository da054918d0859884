"""The threads of NumPy's products: as many as find a core. What others compute is told here, not measured."""

import os
import time

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from minillm.backends import blas
from minillm.backends.blas import Libraries, Used, free_cores, used
from minillm.backends.numpy_ import run_layers


@pytest.mark.parametrize(
    ("cores", "others", "ours", "free"),
    [
        (2, 0.0, 2.0, 2),  # alone
        (2, 0.2, 1.8, 2),  # a desktop at rest
        (2, 0.5, 1.5, 1),  # a loop that shares a core with one of our threads
        (2, 1.0, 1.0, 1),  # the same once we have left it that core: it stays so
        (2, 2.0, 0.0, 1),  # never none
        (8, 3.1, 4.0, 5),
        (8, 3.4, 4.0, 4),
        (4, -0.1, 4.0, 4),  # ours is counted more finely than the machine's
    ],
)
def test_others_cores_are_taken_off(cores, others, ours, free):
    before = Used(100.0, 10.0, 5.0)
    assert free_cores(cores, before, Used(100.0 + 2 * (others + ours), 10.0 + 2 * ours, 7.0)) == free


def test_who_gives_way_does_not_count(tmp_path, monkeypatch):
    tick = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text(f"cpu  {3 * tick} {50 * tick} {2 * tick} 999 9 0 0 0\ncpu0 1 1 1 1\n")
    monkeypatch.setattr(os, "nice", lambda more: 0)
    monkeypatch.setattr(blas, "sessions_are_equal", lambda: False)
    assert used(tmp_path / "stat").machine == 5.0
    monkeypatch.setattr(os, "nice", lambda more: 10)  # then they are our equals
    assert used(tmp_path / "stat").machine == 55.0
    monkeypatch.setattr(os, "nice", lambda more: 0)
    monkeypatch.setattr(blas, "sessions_are_equal", lambda: True)  # and in other sessions they are, whatever their nice value
    assert used(tmp_path / "stat").machine == 55.0


def test_sessions_are_equal_where_the_switch_says_so(tmp_path):
    for text, equal in {"1\n": True, "0\n": False}.items():
        (tmp_path / f"switch{equal}").write_text(text)
        assert blas.sessions_are_equal(str(tmp_path / f"switch{equal}")) is equal
    assert blas.sessions_are_equal(str(tmp_path / "none")) is False


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="this system does not tell what others compute")
def test_what_we_compute_is_ours():
    before, end = used(), time.process_time() + 0.3
    while time.process_time() < end:
        pass
    after = used()
    assert after.ours - before.ours >= 0.28
    assert after.machine - before.machine >= (after.ours - before.ours) - 0.05 or os.nice(0) > 0


@pytest.fixture
def looks(monkeypatch):
    """Say what others keep busy, in cores; each look is a second after the last, and we compute nothing."""
    now = {"at": 0.0, "machine": 0.0, "others": 0.0}

    def look():
        now["machine"] += now["others"]
        return Used(now["machine"], 0.0, now["at"])

    def later(others):
        now["at"], now["others"] = now["at"] + 1, others

    monkeypatch.setattr(blas.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(blas, "used", look)
    monkeypatch.setattr(blas.time, "monotonic", lambda: now["at"])
    return later


@pytest.fixture
def libraries():
    """Four threads, whatever the machine has, and what there was before given back."""
    with threadpool_limits(4, user_api="blas"):
        if not (found := Libraries()).found or set(found.most) != {4}:
            pytest.skip(f"this NumPy's products cannot have four threads: {ThreadpoolController().info()}")
        yield found


def threads(libraries):
    return {library.num_threads for library in libraries.found}


def test_threads_go_when_others_come_and_return_when_they_leave(looks, libraries):
    seen = []
    for others in (0.0, 0.0, 1.0, 3.0, 3.9, 2.0, 0.1):
        looks(others)
        libraries.fit()
        seen += [*threads(libraries)]
    assert seen == [4, 4, 3, 1, 1, 2, 4]


def test_one_look_a_quarter_of_a_second(looks, libraries, monkeypatch):
    count = []
    monkeypatch.setattr(blas, "used", lambda: count.append(1) or Used(0.0, 0.0, blas.time.monotonic()))
    looks(0.0)
    for _ in range(5):
        libraries.fit()
    assert len(count) == 1


def test_a_number_that_the_user_sets_later_stays(looks, libraries):
    for others in (0.0, 0.0):
        looks(others)
        libraries.fit()
    with threadpool_limits(2, user_api="blas"):
        looks(0.0)
        libraries.fit()
        assert threads(libraries) == {2}
        looks(3.0)
        libraries.fit()
        assert threads(libraries) == {1}
        looks(0.0)
        libraries.fit()
        assert threads(libraries) == {2}


def test_where_nobody_tells_nothing_changes(libraries, monkeypatch):
    def missing():
        raise FileNotFoundError("/proc/stat")

    monkeypatch.setattr(blas, "used", missing)
    libraries.fit()
    libraries.fit()
    assert threads(libraries) == {4}


def test_a_forward_pass_of_numpy_looks_first(monkeypatch):
    done = []
    monkeypatch.setattr(Libraries, "fit", lambda self: done.append(1))

    class Step:
        ops = None

    x = np.zeros((1, 4), np.float32)
    assert run_layers(x, [], None, None, Step()) is x and done == [1]
