"""The threads of the kernels: a caller and its helpers, who come when they have a core and whom nobody waits for otherwise.

A decode step is a hundred and fifty short regions; between them every thread needs what the others made. Libraries of
threads wait there for each other. On a machine with other programs a thread loses its core for some milliseconds now and
then, all others wait for it, and a step of 4 ms takes 100, or 2,000. Here a job is such that any number of threads can do
it, one alone too (tasks.py). So

    caller    opens a job, does it, closes it, and returns when no helper is inside any more
    helper    comes in while the job is open, does what is left to do, and leaves

A helper that has no core comes late, or not at all. Between two jobs helpers look for the next one, for a millisecond
all the time, then now and then; after that they sleep until they are called. Where two threads of Python compute at once, one has the helpers and the other
works alone, so there are never more threads than cores. In a forked process there are none until it asks for some.
"""

import os
import threading
from contextlib import contextmanager

import numba
import numpy as np
from numba import njit

from minillm.backends.numba_.atomics import call_job, fetch_add, look, nanoseconds, nap, pause, put, yield_core
from minillm.backends.numba_.compiled import FOLDER, kernel

JOB, CODE, ARGS, INSIDE, THREADS = 0, 8, 9, 16, 24  # where they stand in the words of a team, apart by a cache line
SPIN_NS = 1_000_000  # a helper looks for the next job all the time: longer than Python takes from one step to the next
IDLE_NS = 200_000_000  # a helper looks now and then; then it goes to sleep in Python, which means to ask for its lock
PAUSES = 4  # between two looks: the line that is looked at is one that another core writes
SPINS = 1000  # times that a thread looks before it lets others have its core


@njit
def launch(words, code_and_args):
    """Do a job (atomics.job) with the helpers of a team. JOB is odd while a job is open."""
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
        yield_core()
    return looked + 1


@kernel()
def serve(words, number, last, idle_ns):  # -> the last job that was seen
    """Help with every job, until there has been none for idle_ns."""
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
    """Helpers, started when they are first needed."""

    def __init__(self):
        self.words = new_words()
        self.held = threading.Lock()  # by the thread of Python whose job they help with
        self.awake = threading.Condition()
        self.helpers, self.asleep, self.calls = 0, 0, 0

    def call(self, threads):
        """Start or wake the helpers for a job of so many threads."""
        self.words[THREADS] = threads
        self.calls += 1
        while self.helpers < threads - 1:
            self.helpers += 1
            try:
                threading.Thread(target=self.help, args=[self.helpers], daemon=True, name=f"minillm-{self.helpers}").start()
            except RuntimeError:  # no thread may be started here
                self.helpers = threads
        if self.asleep:
            with self.awake:
                self.awake.notify_all()

    def help(self, number):
        """Run helper `number`."""
        last = 0
        while True:
            calls = self.calls
            last = serve(self.words, number, last, IDLE_NS)
            with self.awake:
                self.asleep += 1
                if calls == self.calls:  # nobody has called since this thread began to look
                    self.awake.wait()
                self.asleep -= 1


def new_words():
    words = np.zeros(32, np.int64)
    words[THREADS] = 1
    return words


TEAM = Team()
LIMIT = threading.local()  # threads of the jobs of one thread of Python


def forget_helpers():
    """Begin anew in a forked process, where the helpers are not."""
    global TEAM
    TEAM = Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_helpers)


def threads():  # -> int
    """Return how many threads do a job: NUMBA_NUM_THREADS, by default one for each core, or what `set_threads` said."""
    return getattr(LIMIT, "threads", numba.config.NUMBA_NUM_THREADS)


def set_threads(count):
    """Set how many threads do the jobs of this thread of Python."""
    LIMIT.threads = max(1, count)


@contextmanager
def team():  # -> (words of a team, threads)
    """Surround the call of a kernel. Where the helpers are busy with another job, the caller works alone."""
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
    return {"threads": threads(), "compiled_kernels": kept, "kernel_folder": str(FOLDER) if FOLDER else None}
