"""How many threads a step gets: all there are, and fewer while other programs hold the cores.

The threads of a step wait for each other at some hundred and fifty barriers. They spin, because to sleep and be woken takes
longer than the work between two barriers. Where a thread has no core, the others spin for it, on cores that it could have had:
a step of 4 ms takes 2 s. One thread waits for nobody, and keeps two thirds of the quiet pace. So every step is timed:

    usual     what a step of its kind takes when all goes well, the tenth percentile
    debt      what steps took beyond 2.5 times the usual; steps that took less pay it back
    debt > LOST_S            half as many threads, for a pause, which doubles each time it was too short;
                             a step of one call (stack.py) looks at the clock after each layer, and goes on with fewer at once
    the pause is over        before each step a rehearsal: barriers with next to nothing in between. Does every thread come
                             at once, three steps in a row? Then all threads again, else another pause

Results do not depend on the number of threads, so a change is seen by the clock alone. `--threads N` stays an upper bound.
MINILLM_THREADS=fixed keeps all threads at all times.
"""

import os
import threading
import time
from contextlib import contextmanager

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from minillm.backends.numba_.compiled import kernel

SLOW = 2.5  # times the usual: what steps may take on average before fewer threads do better
LOST_S = 0.03  # seconds of debt before threads are given up: some slices of the system's scheduler
PAUSE_S, LONGEST_S = 0.1, 1.0  # after a rehearsal that failed
IN_A_ROW = 3  # rehearsals, a step apart, before all threads run again: one is short, and may succeed by luck
FALL, RISE = 0.98, 1.002  # of the usual, where a step took less or more: nine rises for a fall, so a tenth of steps take less
CLOCK = getattr(time, "CLOCK_UPTIME_RAW", getattr(time, "CLOCK_MONOTONIC", None))  # what time.monotonic reads: macOS, Linux
REHEARSALS, BARRIERS, PROMPT_S = 8, 5, 0.0005  # so many times so many barriers, each time within so many seconds


class Pace:
    """The number of threads as a function of what steps took. rehearse(threads): do all come at once? now() -> seconds."""

    def __init__(self, rehearse, now=time.monotonic):
        self.rehearse, self.now = rehearse, now
        self.usual = {}  # (kind, threads) -> seconds
        self.debt, self.pause = 0.0, PAUSE_S
        self.fewer, self.until = None, 0.0  # threads of a step while cores are missing, and when to rehearse
        self.rehearsed, self.since = 0, 0.0  # rehearsals in a row, and when all threads began

    def threads(self, full):
        """Return how many of `full` threads the next step gets."""
        if self.fewer is not None and self.now() >= self.until:
            self.rehearsed = self.rehearsed + 1 if self.rehearse(full) else 0
            if self.rehearsed == IN_A_ROW:
                self.fewer, self.since, self.debt = None, self.now(), 0.0
            elif not self.rehearsed:
                self.wait()
        return full if self.fewer is None else min(self.fewer, full)

    def patience(self, kind, threads):
        """Return the seconds after which a step with these threads has too much debt; for one thread there are no fewer."""
        usual = self.usual.get((kind, threads))
        return float("inf") if usual is None or threads == 1 else SLOW * usual + LOST_S - self.debt

    def took(self, kind, threads, seconds):
        """Take note of a step. kind: on a quiet machine steps of one kind take equally long."""
        usual = self.usual.get((kind, threads), seconds)
        if seconds < usual / 2:  # the first one compiled, perhaps
            usual = seconds
        self.usual[kind, threads] = usual = usual * (FALL if seconds < usual else RISE)
        self.debt = max(0.0, self.debt + seconds - SLOW * usual)
        if self.debt > LOST_S and threads > 1:
            self.give_up(threads)

    def give_up(self, threads):
        """Go on with half as many."""
        if self.now() - self.since > 2 * LONGEST_S:
            self.pause = PAUSE_S
        self.fewer, self.debt, self.rehearsed = threads // 2, 0.0, 0
        self.wait()

    def wait(self):
        self.until = self.now() + self.pause
        self.pause = min(2 * self.pause, LONGEST_S)


@intrinsic
def seconds(typing):
    """Read the clock of time.monotonic; 0 on Windows, which has no such function."""

    def emit(context, builder, signature, args):
        if CLOCK is None:
            return context.get_constant(types.float64, 0.0)
        whole, number = ir.IntType(64), ir.IntType(32)
        both = cgutils.alloca_once(builder, ir.ArrayType(whole, 2))  # struct timespec
        function = ir.FunctionType(number, [number, both.type])
        clock_gettime = cgutils.get_or_insert_function(builder.module, function, "clock_gettime")
        builder.call(clock_gettime, [number(CLOCK), both])
        full, rest = (builder.sitofp(builder.extract_value(builder.load(both), i), ir.DoubleType()) for i in (0, 1))
        return builder.fadd(full, builder.fmul(rest, ir.DoubleType()(1e-9)))

    return types.float64(), emit


@kernel(parallel=True)
def barriers(threads, times, came):
    for _ in range(times):
        for part in prange(threads):
            came[16 * part] += 1


def rehearse(threads):
    """Whether so many threads come to barriers at once, every time."""
    came = np.zeros(16 * threads, np.int64)
    barriers(threads, 1, came)  # threads that slept are woken
    for _ in range(REHEARSALS):
        began = time.perf_counter()
        barriers(threads, BARRIERS, came)
        if time.perf_counter() - began > PROMPT_S:
            return False
    return True


class Step:
    """A step on its way. until: the time of time.monotonic after which it should go on with fewer threads."""

    def __init__(self, pace, kind, threads):
        self.pace, self.kind, self.threads = pace, kind, threads
        self.began = time.monotonic()
        self.until = self.began + (pace.patience(kind, threads) if pace else float("inf"))

    def go_on_with_fewer(self):
        self.pace.give_up(self.threads)
        numba.set_num_threads(self.pace.fewer)
        self.until, self.kind = float("inf"), None  # nobody learns from a step of two halves


class Team(threading.local):
    """The threads of the kernels that this thread of Python calls."""

    def __init__(self):
        self.pace = None if os.environ.get("MINILLM_THREADS") == "fixed" else Pace(rehearse)
        self.step = None


TEAM = Team()


@contextmanager
def team(kind=None):  # -> Step
    """Surround a call of kernels. kind: of a whole step, which is timed; what comes beside a step has its threads."""
    pace, full = TEAM.pace, numba.get_num_threads()
    if pace is None or TEAM.step or full == 1:
        yield TEAM.step or Step(None, None, full)
        return
    if kind and not pace.usual:
        rehearse(full)  # so that it is compiled with the first step, and not under traffic
    threads = pace.threads(full) if kind else min(pace.fewer or full, full)
    if threads != full:
        numba.set_num_threads(threads)
    TEAM.step = step = Step(pace, kind, threads)
    try:
        yield step
        if step.kind:
            pace.took(kind, threads, time.monotonic() - step.began)
    finally:
        TEAM.step = None
        if numba.get_num_threads() != full:
            numba.set_num_threads(full)
