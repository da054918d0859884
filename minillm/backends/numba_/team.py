"""The threads of the kernels: a caller, and workers that come when they have a core and that no job waits for.

A decode step is a hundred and fifty short regions; between them every thread needs what the others made. Where each region
begins with all threads and ends with a barrier, one thread without a core stops all: on a machine with other programs a step
of 4 ms took 100, and now and then 2,000. Here a job is such that any number of threads can do it, one alone too (tasks.py):

    caller    opens a job, does it, closes it, and returns when no worker is inside any more
    worker    enters while the job is open, does what is left to do, and leaves

A worker that has no core comes late, or not at all. Between two jobs workers look for the next one, for a millisecond all
the time, then now and then; after that they sleep until they are called. Where two threads of Python compute at once, one
has the workers and the other works alone, so there are never more threads than cores. A forked process has no workers until
it needs some.
"""

import os
import threading
from contextlib import contextmanager

import numba
import numpy as np
from numba import njit

from minillm.backends.numba_.atomics import call_job, fetch_add, look, nanoseconds, nap, pause, put
from minillm.backends.numba_.compiled import FOLDER, kernel
from minillm.backends.numba_.processor import MATRIX_UNIT, VNNI

JOB, CODE, ARGS, INSIDE, THREADS = 0, 8, 9, 16, 24  # where they stand in the words of a team, apart by a cache line
SPIN_NS = 1_000_000  # a worker looks for the next job all the time: longer than Python takes from one step to the next
IDLE_NS = 200_000_000  # a worker looks now and then; then it goes to sleep in Python, which means to ask for its lock
PAUSES = 4  # between two looks: the line that is looked at is one that another core writes
SPINS = 1000  # times that a thread looks before it sleeps between two looks, so that others have its core


@njit
def launch(words, code_and_args):
    """Do a job (atomics.job) with the workers of a team. JOB is odd while a job is open."""
    code, args = code_and_args
    put(words, CODE, code)
    put(words, ARGS, args)
    fetch_add(words, JOB, 1)
    call_job(code, args, 0)
    fetch_add(words, JOB, 1)
    looked = 0
    while look(words, INSIDE):
        looked = rest(looked)


@njit
def rest(looked):  # times -> times
    """Wait a little, in a loop that looks at what another thread writes."""
    if looked < SPINS:
        for _ in range(PAUSES):
            pause()
    else:
        nap()  # to yield would put this thread behind the others for a slice of the scheduler's, which is milliseconds
    return looked + 1


@kernel()
def serve(words, number, last, idle_ns):  # -> the last job that was seen
    """Do every job, until there has been none for idle_ns."""
    since = nanoseconds()
    while nanoseconds() - since < idle_ns:
        job = look(words, JOB)
        if job % 2 and job != last and number < look(words, THREADS):
            fetch_add(words, INSIDE, 1)
            if look(words, JOB) == job:  # still open: the caller will see that this thread is inside
                call_job(look(words, CODE), look(words, ARGS), number)
            fetch_add(words, INSIDE, -1)
            last, since = job, nanoseconds()
        if nanoseconds() - since < SPIN_NS:
            pause()
        else:
            nap()
    return last


class Team:
    """Workers, started when they are first needed."""

    def __init__(self):
        self.words = new_words()
        self.held = threading.Lock()  # by the thread of Python whose job they do
        self.awake = threading.Condition()
        self.workers, self.asleep, self.calls = 0, 0, 0

    def call(self, threads):
        """Start or wake the workers for a job of so many threads."""
        self.words[THREADS] = threads
        self.calls += 1
        while self.workers < threads - 1:
            self.workers += 1
            try:
                threading.Thread(target=self.work, args=[self.workers], daemon=True, name=f"minillm-{self.workers}").start()
            except RuntimeError:  # no thread may be started here
                self.workers = threads
        if self.asleep:
            with self.awake:
                self.awake.notify_all()

    def work(self, number):
        """Run worker `number`."""
        last = 0
        while True:
            calls = self.calls
            last = serve(self.words, number, last, IDLE_NS)
            with self.awake:
                self.asleep += 1
                if calls == self.calls:  # no call came since this thread began to look
                    self.awake.wait()
                self.asleep -= 1


def new_words():
    words = np.zeros(32, np.int64)
    words[THREADS] = 1
    return words


TEAM = Team()
LIMIT = threading.local()  # threads of the jobs of one thread of Python


def forget_workers():
    """Begin anew in a forked process, where the workers are not."""
    global TEAM
    TEAM = Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_workers)


def threads():  # -> int
    """Return how many threads do a job: NUMBA_NUM_THREADS, by default one for each core, or what `set_threads` said."""
    return getattr(LIMIT, "threads", numba.config.NUMBA_NUM_THREADS)


def set_threads(count):
    """Set how many threads do the jobs of this thread of Python."""
    LIMIT.threads = max(1, count)


@contextmanager
def team():  # -> words of a team
    """Surround the call of a kernel. Where the workers are busy with another job, the caller works alone."""
    count, whole = threads(), TEAM
    if count == 1 or not whole.held.acquire(blocking=False):
        yield new_words()
        return
    try:
        whole.call(count)
        yield whole.words
    finally:
        whole.held.release()


def state():  # -> dict
    """Describe threads and kernels for `minillm backends`."""
    kept = len(list(FOLDER.rglob("*.nbc"))) if FOLDER else 0
    return {
        "threads": threads(),
        "matrix_unit": MATRIX_UNIT,
        "vpdpbusd": VNNI,
        "compiled_kernels": kept,
        "kernel_folder": str(FOLDER) if FOLDER else None,
    }
