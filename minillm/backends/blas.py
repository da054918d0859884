"""NumPy's BLAS: as many threads as there are cores that nobody else keeps busy.

NumPy hands a matrix product to a library (OpenBLAS in its wheels), which cuts it up for its threads and then waits for the last
one. On a machine of one's own that is fast. Beside other programs one of the threads has no core, and a product of 0.1 ms
takes a slice of the scheduler's, 3 ms: a notebook that is built in half a minute took more than five.

    threads = cores - cores that others keep busy       at least 1; at most what the library began with, or the user set

Linux keeps the time that all processes computed (/proc/stat), that of processes with a nice value apart. These give way to us and
do not count, unless the scheduler makes sessions equal (autogroups): there nice ranks within a session only, and a download in
another terminal takes as much as we do. What a process computed itself is taken off. Where there is no such file, nothing is
changed.
"""

import os
import time
from functools import cache
from math import ceil
from typing import Any, NamedTuple

from threadpoolctl import ThreadpoolController

SECONDS = 0.25  # from one look to the next at least: the kernel counts in hundredths of a second
IDLE = 0.25  # of a core: what the small programs of a desktop take; a thread for it would be missed more than it disturbs


class Used(NamedTuple):
    """Seconds that cores computed until now, for all processes and for this one, and the time of the look."""

    machine: float
    ours: float
    at: float


def used(stat: str = "/proc/stat") -> Used:
    """Look. OSError where nobody tells."""
    with open(stat) as file:
        user, nice, system = (int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in file.readline().split()[1:4])
    now, equal = os.times(), os.nice(0) > 0 or sessions_are_equal()  # we give way as well, or they do not
    return Used(user + system + (nice if equal else 0.0), now.user + now.system, time.monotonic())


@cache
def sessions_are_equal(switch: str = "/proc/sys/kernel/sched_autogroup_enabled") -> bool:
    """Look whether the scheduler groups processes by session; False where there is no such switch."""
    try:
        with open(switch) as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def free_cores(cores: int, before: Used, after: Used) -> int:
    """Compute how many of the cores others left us between two looks: at least one."""
    others = (after.machine - before.machine - after.ours + before.ours) / (after.at - before.at)
    return max(1, cores - max(0, ceil(others - IDLE)))


class Libraries:
    """The BLAS libraries of this process: the most threads that each may have, those it was given, and the last look."""

    def __init__(self) -> None:
        self.found: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
        self.given = self.most = [library.num_threads for library in self.found]
        self.last: Used | None = None

    def fit(self) -> None:
        """Set the threads of each library to the free cores, where it was not done a moment ago."""
        if self.last and time.monotonic() - self.last.at < SECONDS:
            return
        try:
            before, self.last = self.last, used()
        except OSError:
            return
        if before:
            self.limit(free_cores(os.cpu_count() or 1, before, self.last))

    def limit(self, threads: int) -> None:
        """Give each library so many threads, or fewer. One that has another number than it was given has it from the user."""
        numbers = [library.num_threads for library in self.found]
        self.most = [most if n == given else n for n, given, most in zip(numbers, self.given, self.most, strict=True)]
        self.given = [min(most, threads) for most in self.most]
        for library, number in zip(self.found, self.given, strict=True):
            library.set_num_threads(number)


@cache
def libraries() -> Libraries:
    """Find the libraries, once: a look through all that is loaded takes milliseconds."""
    return Libraries()
