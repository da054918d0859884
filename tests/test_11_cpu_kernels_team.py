"""The number of threads of a step: full when quiet, fewer when steps are lost, full again soon after; and no result changes.

The clock is ours, so these tests count and never wait.
"""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

numba = pytest.importorskip("numba")

from minillm.backends.numba_ import team  # noqa: E402
from minillm.backends.numba_.team import LONGEST_S, LOST_S, PAUSE_S, RISE, SLOW, Pace  # noqa: E402

STEP_S = 0.004


class Machine:
    """A clock, two cores, and neighbours that come and go: beside them two threads take 0.3 s a step."""

    def __init__(self, cores=2):
        self.time, self.busy, self.rehearsals, self.cores = 0.0, False, 0, cores
        self.pace = Pace(self.rehearse, lambda: self.time)

    def rehearse(self, threads):
        self.rehearsals += 1
        self.time += 0.001
        return not self.busy

    def step(self, kind="1", quiet=STEP_S):
        """Return how many threads a step had."""
        threads = self.pace.threads(self.cores)
        seconds = (quiet * 75 if self.busy else quiet) if threads > 1 else quiet * 1.5
        self.time += seconds
        self.pace.took(kind, threads, seconds)
        return threads

    def steps(self, n, **how):
        return [self.step(**how) for _ in range(n)]


def test_a_quiet_machine_keeps_all_threads_and_is_never_rehearsed():
    machine = Machine()
    assert machine.steps(2000) == [2] * 2000 and machine.rehearsals == 0


def test_one_lost_step_is_enough_to_go_on_with_fewer_threads():
    machine = Machine()
    machine.steps(10)
    machine.busy = True
    assert machine.steps(12) == [2] + [1] * 11


@pytest.mark.parametrize(("every", "late", "kept"), [(4, 6, True), (4, 8, False), (100, 9, True), (100, 12, False)])
def test_what_counts_is_whether_steps_take_too_long_on_average(every, late, kept):
    """Every fourth step seven times as long: 1 + 1 + 1 + 7 = 4 · 2.5. Rarely nine times: paid back. Twelve: too much at once."""
    machine = Machine()
    for number in range(400):
        machine.pace.took("1", machine.pace.threads(2), STEP_S * (late if number % every == every - 1 else 1))
    assert (machine.pace.fewer is None) is kept


def test_what_is_lost_little_by_little_counts_too():
    machine = Machine()
    machine.steps(10)
    for _ in range(int(LOST_S / 0.006) + 3):  # each 6 ms beyond what is allowed
        machine.pace.took("1", machine.pace.threads(2), SLOW * STEP_S + 0.006)
    assert machine.pace.threads(2) == 1


def test_rehearsals_become_rare_and_cost_little():
    machine = Machine()
    machine.steps(10)
    machine.busy = True
    began = machine.time
    while machine.time < began + 60:
        machine.step()
    assert machine.rehearsals <= np.log2(LONGEST_S / PAUSE_S) + 2 + 60 / LONGEST_S


def test_a_rehearsal_that_succeeds_by_luck_is_not_enough():
    machine = Machine()
    machine.steps(10)
    machine.busy, luck = True, iter([True, True, False] * 1000)
    machine.pace.rehearse = lambda threads: next(luck)
    assert machine.steps(1000).count(2) == 1


def test_all_threads_are_back_soon_after_the_neighbours_went():
    machine = Machine()
    machine.steps(10)
    machine.busy = True
    machine.steps(3000)
    machine.busy, went = False, machine.time
    while machine.step() == 1:
        pass
    assert machine.time - went <= LONGEST_S + 0.1


def test_after_a_long_quiet_time_the_first_pause_is_short_again():
    machine = Machine()
    for _ in range(3):
        machine.busy = True
        machine.steps(3000)
        machine.busy = False
        machine.steps(3000)
    machine.busy = True
    machine.steps(2)
    assert machine.pace.until - machine.time <= PAUSE_S


def test_what_is_usual_is_the_tenth_percentile():
    machine, rng = Machine(), np.random.default_rng(3)
    taken = STEP_S * rng.uniform(1, 2, 3000)
    for seconds in taken:
        machine.pace.took("1", 2, float(seconds))
    assert machine.pace.fewer is None and abs(machine.pace.usual["1", 2] / np.percentile(taken, 10) - 1) < 0.1


def test_a_first_step_that_compiles_is_soon_no_longer_the_usual():
    machine = Machine()
    for seconds in (20.0, STEP_S, STEP_S, STEP_S):
        machine.pace.took("1", 2, seconds)
    assert machine.pace.usual["1", 2] < 1.1 * STEP_S


def test_another_kind_of_step_that_takes_longer_is_no_lost_time():
    machine = Machine()
    machine.steps(50)
    assert machine.steps(50, kind="16", quiet=0.05) == [2] * 50
    assert machine.steps(50) == [2] * 50


def test_what_is_usual_follows_steps_that_take_longer_and_longer():
    machine = Machine()
    machine.steps(1)
    n = int(np.log(4) / np.log(RISE)) + 1
    seconds = STEP_S * 4.0 ** (np.arange(n) / n)  # four times as long, little by little
    for each in seconds:
        machine.pace.took("1", 2, float(each))
    assert machine.pace.fewer is None


def test_of_eight_threads_half_are_given_up_at_a_time():
    machine = Machine(cores=8)
    machine.steps(10)
    machine.pace.took("1", 8, 1.0)
    assert machine.pace.threads(8) == 4
    machine.pace.took("1", 4, STEP_S)
    machine.pace.took("1", 4, 1.0)
    assert machine.pace.threads(8) == 2


@settings(max_examples=200)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 300)), max_size=20), st.integers(1, 9))
def test_whatever_the_neighbours_do_there_is_a_thread_and_never_more_than_allowed(story, cores):
    machine = Machine(cores)
    for machine.busy, n in story:
        assert all(1 <= threads <= cores for threads in machine.steps(n))


# --- with the kernels -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_model():
    from minillm.model import zoo
    from minillm.model.load import load_model

    return load_model(zoo.resolve("tiny"), "numba")[0]


def tokens(model, n=24):
    from minillm.model.transformer import Segment

    cache, logits, found = model.new_cache(64), None, []
    logits = model.forward([Segment([1, 2, 3], 0, cache)])[0]
    for _ in range(n):
        found.append(logits[-1].tobytes())
        logits = model.forward([Segment([int(logits[-1].argmax())], cache.length, cache)])[0]
    return found


def test_logits_are_the_same_bits_with_threads_that_come_and_go(tiny_model, two_threads, monkeypatch):
    """All, then one, then all again: the answer of the fixed number."""
    monkeypatch.setattr(team.TEAM, "pace", None)
    expected = tokens(tiny_model)
    used = []

    class Restless(Pace):
        def threads(self, full):
            used.append(full if len(used) % 3 else 1)
            self.fewer = used[-1]
            return used[-1]

    monkeypatch.setattr(team.TEAM, "pace", Restless(lambda threads: True))
    assert tokens(tiny_model) == expected
    assert len(used) == 25 and numba.get_num_threads() == min(2, numba.config.NUMBA_NUM_THREADS)


def test_a_step_that_is_late_half_way_goes_on_with_fewer_and_gives_the_same_bits(tiny_model, two_threads, monkeypatch):
    """A deadline that has passed after the first layer: the rest is a second call, with one thread."""
    monkeypatch.setattr(team.TEAM, "pace", None)
    expected, calls = tokens(tiny_model), []

    class Hurried(Pace):
        def threads(self, full):
            self.fewer = None
            return full

        def patience(self, kind, threads):
            return 0.0 if threads > 1 else float("inf")

        def give_up(self, threads):
            calls.append(threads)
            super().give_up(threads)

    monkeypatch.setattr(team.TEAM, "pace", Hurried(lambda threads: True))
    assert tokens(tiny_model) == expected
    assert calls == [2] * 24 and numba.get_num_threads() == 2, "each decode step was cut in two; a prompt is not one call"


def test_an_error_within_a_step_gives_the_threads_back(two_threads, monkeypatch):
    pace = Pace(lambda threads: False)
    pace.fewer, pace.until = 1, float("inf")
    monkeypatch.setattr(team.TEAM, "pace", pace)
    before = numba.get_num_threads()
    with pytest.raises(ZeroDivisionError), team.team("a step"):
        assert numba.get_num_threads() == 1
        raise ZeroDivisionError
    assert numba.get_num_threads() == before and team.TEAM.step is None and not pace.usual


def test_a_rehearsal_ends_where_all_come_and_where_the_cores_are_taken(two_threads):
    """A thousand of them, in this thread and in another: none hangs. (What each says depends on the machine of this minute.)"""
    said = []

    def thousand():
        said.extend(team.rehearse(numba.get_num_threads()) for _ in range(500))

    other = threading.Thread(target=thousand)
    other.start()
    thousand()
    other.join()
    assert len(said) == 1000 and set(said) <= {True, False}


def test_each_thread_of_a_program_has_a_pace_of_its_own():
    seen = []
    other = threading.Thread(target=lambda: seen.append(team.TEAM.pace))
    other.start()
    other.join()
    assert seen[0] is not team.TEAM.pace


@pytest.mark.parametrize(("value", "fixed"), [("fixed", True), ("", False)])
def test_the_number_can_be_fixed(value, fixed):
    ask = "from minillm.backends.numba_.team import TEAM; print(TEAM.pace is None)"
    env = os.environ | {"MINILLM_THREADS": value}
    child = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True)
    assert child.stdout.strip() == str(fixed), child.stderr
