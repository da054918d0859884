"""Regions of tasks for any number of threads: what one does not get to, another does.

All threads walk through the same regions of a job in the same order. A region is a number of tasks. Each thread has a range
of them for its own, and takes the others' when it is done, from the end. It goes on when all tasks are complete:

    open_region(w, tasks)
    while (task := next_task(w)) >= 0:
        …
        complete(w, task)

So a thread without a core, or asleep, is no hindrance: the others do its tasks. They wait for a task that it has begun, no
longer than the system's scheduler makes it wait, and give their cores away meanwhile, which it gives back later. A thread
that comes late finds regions that are complete, and runs through them to where the others are.

    board    a stretch for each thread, for it alone as a rule, since a cache line that two cores write travels between
             them for half a microsecond:    for each of its tasks    2 · region: taken    2 · region + 1: complete

To be no hindrance even with a task begun, a thread's task could be done again by others, and the first result be taken
(backup tasks, Dean and Ghemawat 2004). That was tried: beside two loops on two cores it kept 0.44 of the quiet pace, as
much as without, and every result had to be copied.

Blumofe and Leiserson 1999, "Scheduling Multithreaded Computations by Work Stealing".
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from minillm.backends.numba_.atomics import look, put, replace
from minillm.backends.numba_.crossover import SERIAL
from minillm.backends.numba_.team import rest

REGION, TASKS, NEXT, LAST, PASSED = range(5)  # of a thread's own numbers
TASKS_OF_A_THREAD = 4  # in a region: a thread that is late leaves so many to the others, of which each costs some nanoseconds


class Worker(NamedTuple):
    """One thread in a job."""

    number: int  # 0 is the caller
    threads: int  # that there may be
    board: np.ndarray  # (threads, …) int64, zeros when the job begins; of all threads
    own: np.ndarray  # (8,) int64, of this thread


@njit
def worker(number, threads, board):
    return Worker(number, threads, board, np.zeros(8, np.int64))


@njit
def new_board(threads, tasks):  # tasks of the largest region -> board
    """Make the board of a job. A stretch is whole cache lines, and one more, as cores read them in pairs."""
    return np.zeros((threads, (tasks // threads + 1 + 15) // 8 * 8), np.int64)


@njit
def first_of(w, thread):
    """Find the first task of a thread's range."""
    return thread * w.own[TASKS] // w.threads


@njit
def open_region(w, tasks):
    """Begin the next region."""
    own = w.own
    own[REGION] += 1
    own[TASKS] = tasks
    own[NEXT], own[LAST] = first_of(w, w.number), first_of(w, w.number + 1)


@njit
def next_task(w):  # -> a task, for this thread alone; or -1: all are complete
    """Take the next of its own tasks; then one of another thread's; then wait until all are complete."""
    own = w.own
    while own[NEXT] < own[LAST]:
        task = own[NEXT]
        own[NEXT] += 1
        if take(w, w.number, task):
            return task
    looked = 0
    while True:
        all_complete = True
        for i in range(1, w.threads + 1):
            other = (w.number + i) % w.threads
            flags, first = w.board[other], first_of(w, other)
            for task in range(first_of(w, other + 1) - 1, first - 1, -1):
                state = look(flags, task - first)
                if state < 2 * own[REGION] and take(w, other, task):
                    return task
                all_complete &= state > 2 * own[REGION]
        if all_complete:
            return -1
        looked = rest(looked)


@njit
def take(w, owner, task):
    """Take a task of a thread's range, unless it is taken."""
    flags, place, taken = w.board[owner], task - first_of(w, owner), 2 * w.own[REGION]
    state = look(flags, place)
    return state < taken and replace(flags, place, state, taken)


@njit
def complete(w, task):
    """Tell the others that what a task was to write is there."""
    owner = ((task + 1) * w.threads - 1) // w.own[TASKS]
    put(w.board[owner], task - first_of(w, owner), 2 * w.own[REGION] + 1)


@njit
def begin_rows(w, n):
    """Begin what each of n tokens needs for itself. Where they are few, each thread does all of it for itself: to wait would
    take longer. Else it is a region, some tokens a task."""
    if n > SERIAL:
        open_region(w, row_tasks(n, w.threads))
    w.own[PASSED] = -1


@njit
def next_rows(w, n):  # -> first token, the one after the last; equal when there are no more
    """Take the next tokens."""
    before = w.own[PASSED]
    if n <= SERIAL:
        w.own[PASSED] = 0
        return 0, n if before < 0 else 0
    if before >= 0:
        complete(w, before)
    task, tasks = next_task(w), w.own[TASKS]
    w.own[PASSED] = task
    return (task * n // tasks, (task + 1) * n // tasks) if task >= 0 else (0, 0)


@njit
def row_tasks(n, threads):
    return min(n, TASKS_OF_A_THREAD * threads)
