"""Tokens times the matrices of a region: bands of rows as tasks for the threads (tasks.py).

Matrices that multiply the same x (q, k and v; gate and up) are one region, with their results side by side in y:

    y      │ q │ k │ v │       which     first matrix, the one after the last, 1: the result is added to y

A task is a stretch of neighbouring bands of each matrix: a core reads long stretches of memory, and no two write to one
cache line.
"""

from numba import njit

from minillm.backends.numba_.bands import handle_at
from minillm.backends.numba_.matrix_unit import split_block
from minillm.backends.numba_.packed import BAND
from minillm.backends.numba_.tasks import TASKS_OF_A_THREAD, complete, next_task, open_region
from minillm.backends.numba_.thin import product
from minillm.backends.numba_.tile import round_block


@njit
def multiply(w, which, handles, thin, h, y):
    """Compute y = (add · y) + h Wᵀ for the matrices `which` names. A region."""
    first, last, add = which
    tasks = product_tasks(w.threads)
    open_region(w, tasks)
    while True:
        task = next_task(w)
        if task < 0:
            return
        row = 0
        for matrix in range(first, last):
            bands = handle_at(handles, matrix).bands
            product(task * bands // tasks, (task + 1) * bands // tasks, add, handles, thin, matrix, h, y, row)
            row += BAND * bands
        complete(w, task)


@njit
def product_tasks(threads):
    return TASKS_OF_A_THREAD * threads if threads > 1 else 1


@njit
def round_row(h, t, bits=16):
    """Round token t of an Operand to 16 or 8 bits: x -> codes, scale, sums; and parts, where there is room for them."""
    x, scale, sums, splits = h.x[t], h.scale[t], h.sums[t], len(h.parts) > 0 and bits == 16
    for block in range(len(scale)):
        round_block(x, 32 * block, bits, h.codes, len(x) * t + 32 * block, scale, sums, block)
        if splits:
            split_block(h.codes[t], h.parts[t], block)
