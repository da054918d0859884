"""Threads that share tasks: each task is done once, on any number of threads, and none is waited for that never came."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("numba")

from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from minillm.backends.numba_ import tasks, team
from minillm.backends.numba_.atomics import fetch_add, job, look, nanoseconds, put, replace
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.tasks import complete, new_board, next_rows, next_task, open_region, worker
from minillm.backends.numba_.team import launch, set_threads, threads

# --- one thread after another: the order of calls is the test's, so every meeting of threads can be played --------------------


class Cast:
    """Threads in regions, played by one."""

    def __init__(self, count, most):
        board = new_board(count, most)
        self.all = [worker(i, count, board) for i in range(count)]

    def open(self, region_tasks):
        for w in self.all:
            open_region(w, region_tasks)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33])
def test_one_thread_alone_does_all_tasks_though_others_never_come(count, size):
    cast = Cast(count, size)
    w = cast.all[-1]
    for _ in range(3):
        open_region(w, size)
        found = []
        while (task := next_task(w)) >= 0:
            found.append(task)
            complete(w, task)
        assert sorted(found) == list(range(size)), "each once"


@settings(max_examples=200)
@given(st.integers(1, 5), st.lists(st.integers(1, 12), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_in_any_order_of_threads_each_task_is_taken_once_and_a_region_ends_when_all_are_complete(count, sizes, random):
    """Each thread is a generator that stops before each call. A thread that would wait for another is not moved."""
    cast = Cast(count, max(sizes))
    taken = [[] for _ in sizes]
    done = [set() for _ in sizes]

    def act(w):
        for region, size in enumerate(sizes):
            open_region(w, size)
            yield region
            while True:
                if len(taken[region]) == size and len(done[region]) < size:
                    yield region  # next_task would wait
                    continue
                task = next_task(w)
                if task < 0:
                    break
                taken[region].append(task)
                yield region
                complete(w, task)
                done[region].add(task)
                yield region
            assert done[region] == set(range(size)), "no thread goes on before all tasks are complete"

    acts, turns = [act(w) for w in cast.all], 0
    while acts:
        turns += 1
        assert turns < 5000, "no progress"
        chosen = random.choice(acts)
        if next(chosen, None) is None:
            acts.remove(chosen)
    assert all(sorted(found) == list(range(size)) for found, size in zip(taken, sizes, strict=True))


def test_a_thread_does_its_own_range_from_the_front_and_helps_with_the_others_from_the_back():
    cast = Cast(2, 8)
    cast.open(8)
    first, second = cast.all
    assert [next_task(first) for _ in range(2)] == [0, 1] and next_task(second) == 4
    assert [next_task(first) for _ in range(5)] == [2, 3, 7, 6, 5], "4 is the second thread's own, and taken"


def test_a_late_thread_runs_through_regions_that_are_complete():
    cast = Cast(2, 6)
    early, late = cast.all
    for size in (3, 6, 1):
        open_region(early, size)
        while (task := next_task(early)) >= 0:
            complete(early, task)
    for size in (3, 6, 1):
        open_region(late, size)
        assert next_task(late) == -1
    open_region(late, 4)
    assert next_task(late) == 2


@pytest.mark.parametrize("n", [1, tasks.SERIAL, tasks.SERIAL + 1, 100])
def test_few_tokens_are_every_threads_and_many_are_shared(n):
    cast = Cast(2, 8)
    seen = []
    for w in cast.all:
        tasks.begin_rows(w, n)
        rows = []
        while (span := next_rows(w, n))[0] != span[1]:
            rows += range(*span)
        seen.append(rows)
    if n <= tasks.SERIAL:
        assert seen == [list(range(n))] * 2
    else:
        assert sorted(seen[0]) == list(range(n)) and not seen[1], "the first did all before the second came"


# --- atomics ------------------------------------------------------------------------------------------------------------------


def test_atomic_operations_say_what_was_there():
    @njit
    def play(board):
        return fetch_add(board, 3, 5), replace(board, 3, 7, 1), replace(board, 3, 15, 2), put(board, 0, 9), look(board, 3)

    board = np.arange(10, 18)
    assert play(board) == (13, False, False, None, 18) and board[0] == 9
    board[3] = 7
    assert play(board)[:3] == (7, False, False) and board[3] == 12


def test_the_clock_is_pythons():
    import time

    @njit
    def now():
        return nanoseconds()

    before, between, after = time.monotonic_ns(), now(), time.monotonic_ns()
    assert before <= between <= after


# --- threads ------------------------------------------------------------------------------------------------------------------


@njit
def count_part(number, count, board, regions, size, work, done):
    w = worker(number, count, board)
    for region in range(regions):
        open_region(w, size)
        while True:
            task = next_task(w)
            if task < 0:
                break
            if region and done[region - 1, (task + 1) % size] != 1:
                done[region, task] += 100  # the region before is not complete, or was not seen
            x = 1.0
            for _ in range(work):
                x = x * 1.0000001
            done[region, task] += 1 if x > 0 else 0
            complete(w, task)


@kernel()
def count_all(words, count, regions, size, work, done):
    launch(words, job(count_part, (count, new_board(count, size), regions, size, work, done)))


def run(count, regions=40, size=9, work=50):
    done = np.zeros((regions, size), np.int64)
    set_threads(count)
    with team.team() as words:
        count_all(words, count, regions, size, work, done)
    return done


@pytest.fixture(autouse=True)
def as_before():
    before = threads()
    yield
    set_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_task_once_and_after_the_region_before_with_any_number_of_threads(count):
    for size in (1, 2, 9):
        for _ in range(50):
            assert (run(count, size=size) == 1).all(), "more threads than cores, too"


def test_workers_do_come():
    """Not a single one of 200 jobs of some milliseconds would be seen by a worker that sleeps for good."""
    before = team.TEAM.words.copy()
    for _ in range(200):
        run(2, regions=3, size=8, work=20000)
    assert team.TEAM.words[team.JOB] == before[team.JOB] + 400, "opened and closed"
    assert any(t.name == "minillm-1" and t.is_alive() for t in threading.enumerate())


def test_a_thousand_jobs_of_two_engines_in_threads_of_one_process_end():
    """One has the workers, the other works alone, and they change places."""
    errors = []

    def engine():
        errors.extend("not once" for _ in range(1000) if not (run(2, regions=4, size=5, work=5) == 1).all())

    engines = [threading.Thread(target=engine) for _ in range(2)]
    for one in engines:
        one.start()
    for one in engines:
        one.join(120)
    assert not errors and not any(one.is_alive() for one in engines)


CHILDREN = """
import os, sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = [{tests!r}]
from test_11_cpu_kernels_team import run
import threading
run(2)
stop = []
busy = threading.Thread(target=lambda: [run(2, regions=2, size=3) for _ in iter(lambda: not stop, False)])
if {while_busy}:
    busy.start()
for i in range({times}):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if (run(2, regions=3, size=4) == 1).all() else 1)
    if i % 4 == 3:
        os.kill(pid, 9)
    code = os.waitpid(pid, 0)[1]
    assert code in (0, 9), code
    assert (run(2, regions=3, size=4) == 1).all()
stop.append(1)
print("all ended")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(("times", "while_busy"), [(60, False), (60, True), pytest.param(1000, True, marks=pytest.mark.slow)])
def test_forked_and_killed_processes_leave_the_workers_of_the_parent_alone(times, while_busy):
    """A child has no workers until it asks for some; what a child did when it was killed is its own."""
    code = CHILDREN.format(tests=os.path.dirname(__file__), times=times, while_busy=while_busy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900)
    assert done.stdout == "all ended\n", done.stderr


def test_a_process_that_may_start_no_threads_works_alone():
    code = (
        "import threading, numpy as np\n"
        "def refuse(self): raise RuntimeError('no thread')\n"
        "threading.Thread.start = refuse\n"
        "from minillm.backends.numba_.linear import linear\nfrom minillm.backends.numba_.floats import FloatMatrix\n"
        "m = FloatMatrix(np.ones((1, 16, 64), np.float32), (64, 16))\n"
        "print(linear(np.ones((3, 16), np.float32), m).sum())"
    )
    env = os.environ | {"NUMBA_NUM_THREADS": "4"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["3072.0"], done.stderr


def test_an_error_within_a_job_gives_the_workers_back():
    set_threads(2)
    with pytest.raises(ZeroDivisionError), team.team():
        raise ZeroDivisionError
    with team.team() as words:
        assert words is team.TEAM.words


def test_no_more_threads_than_were_asked_for_do_a_job():
    set_threads(4)
    with team.team() as words:
        assert words[team.THREADS] == 4
    set_threads(2)
    with team.team() as words:
        assert words[team.THREADS] == 2, "workers 2 and 3 stay out"
    set_threads(1)
    with team.team() as words:
        assert words is not team.TEAM.words and words[team.THREADS] == 1
