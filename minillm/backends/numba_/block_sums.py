"""What a draw wants to know of a row of logits, in two passes at the speed of memory: where its large ones are, and its sum.

    maxima   the largest logit of each block of 64 tokens
    sums     Σ e^((logit - best) / temperature) of each block, best the largest of the row
    counts   how many tokens have which logit, in steps of `width`; only where top-p keeps more than the maxima tell of

With these the host looks at the few blocks that can hold what top-k, top-p or min-p keep (model/draws.py). The sums are in
float64: of a flat row each token is a fifty-thousandth of the sum, and whether the last one is kept depends on its last digits.

    e^x = 2^n · e^r     n the whole number nearest to x / ln 2, so |r| ≤ ln 2 / 2; e^r by its series to r^10, off by 2e-13

The rows are tasks of the threads.
"""

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from minillm.backends.numba_.atomics import job
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.online import MINUS_INF, ZERO
from minillm.backends.numba_.simd import (
    I32X16,
    LANES,
    address,
    call,
    constant,
    fma,
    load,
    load_vector,
    max_of,
    maximum,
    splat,
    sum_of,
)
from minillm.backends.numba_.tasks import complete, new_board, next_task, open_region, worker
from minillm.backends.numba_.team import launch, team, threads
from minillm.backends.ops import BLOCK_TOKENS

F64, I64 = ir.DoubleType(), ir.IntType(64)
F64X16, I64X16 = ir.VectorType(F64, LANES), ir.VectorType(I64, LANES)
SERIES = [1 / math.factorial(n) for n in range(11)]
LEAST = -700.0  # e^x of less would be no normal number
STEPS = 512  # of counts
LOWEST = np.float32(-3e38)  # a logit; -inf counts as this


def exp_vector(b, x):  # <16 x double> -> e^x, for x from LEAST to 0
    n = call(b, "llvm.rint.v16f64", F64X16, b.fmul(x, constant(1 / math.log(2), F64)))
    r = call(b, "llvm.fma.v16f64", F64X16, n, constant(-math.log(2), F64), x)
    poly = constant(SERIES[-1], F64)
    for coefficient in SERIES[-2::-1]:
        poly = call(b, "llvm.fma.v16f64", F64X16, poly, r, constant(coefficient, F64))
    exponent = b.add(b.sext(b.fptosi(n, I32X16), I64X16), constant(1023, I64))
    return b.fmul(poly, b.bitcast(b.shl(exponent, constant(52, I64)), F64X16))


@intrinsic
def sum_of_weights(typing, logits, i, best, scale):
    """Compute Σ e^((logit - best) · scale) of the block from element i on: float64. Not a number, where one of them is none."""

    def emit(context, b, signature, args):
        row, at, *both = args
        splats = [b.insert_element(ir.Constant(F64X16, ir.Undefined), x, ir.IntType(32)(0)) for x in both]
        best, scale = (b.shuffle_vector(x, x, constant(0, ir.IntType(32))) for x in splats)
        total = constant(0.0, F64)
        for vector in range(BLOCK_TOKENS // LANES):
            pointer = address(context, b, signature.args[0], row, b.add(at, I64(vector * LANES)))
            x = b.fmul(b.fsub(b.fpext(load_vector(b, pointer, types.float32), F64X16), best), scale)
            x = b.select(b.fcmp_ordered("<", x, constant(LEAST, F64)), constant(LEAST, F64), x)
            total = b.fadd(total, exp_vector(b, x))
        return call(b, "llvm.vector.reduce.fadd.v16f64", F64, ir.Constant(F64, -0.0), total, flags=("reassoc",))

    return types.float64(logits, types.intp, types.float64, types.float64), emit


class Found(NamedTuple):
    """What is found of n rows."""

    maxima: np.ndarray  # (n, blocks) float32
    sums: np.ndarray  # (n, blocks) float64
    widths: np.ndarray  # (n,) float64: of a step of counts, as a logit; 0 where nothing was counted
    counts: np.ndarray  # (n, STEPS) int64, from the largest logit down


@njit(error_model="numpy")
def sum_blocks(row, logits, temperatures, top_ps, found):
    """Fill one row of what is found."""
    maxima, sums = found.maxima, found.sums
    blocks, best, poison = maxima.shape[1], MINUS_INF, splat(ZERO)
    begin = row * blocks * BLOCK_TOKENS
    for block in range(blocks):
        top = splat(MINUS_INF)
        for at in range(begin + block * BLOCK_TOKENS, begin + (block + 1) * BLOCK_TOKENS, LANES):
            x = maximum(splat(LOWEST), load(logits, at))  # of -inf the lowest, of NaN itself
            poison, top = fma(x, splat(ZERO), poison), maximum(x, top)
        maxima[row, block] = max_of(top)
        best = max(best, maxima[row, block])
    if temperatures[row] == 0 or best == LOWEST or sum_of(poison) != ZERO:  # 0 times what is finite stays 0
        sums[row] = sum_of(poison) if best > LOWEST else np.nan
        return
    scale, total, known = 1 / temperatures[row], 0.0, 0.0
    for block in range(blocks):
        sums[row, block] = sum_of_weights(logits, begin + block * BLOCK_TOKENS, np.float64(best), scale)
        total += sums[row, block]
    p = top_ps[row]
    for block in range(0, blocks - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        known += sum_of_weights(maxima, row * blocks + block, np.float64(best), scale)
    if p < 1 and known < p * total and total < math.inf:
        tail = math.log((1 - p) * total / (blocks * BLOCK_TOKENS))  # tokens below weigh less than 1 - p of all together
        found.widths[row] = -tail * temperatures[row] / STEPS
        count(row, logits, begin, np.float32(best), found)


@njit(error_model="numpy")
def count(row, logits, begin, best, found):
    """Count the tokens of one row by logit."""
    line, counts, steps = logits[row], found.counts[row], np.float32(1 / found.widths[row])
    counts[:] = 0
    for block in range(found.maxima.shape[1]):
        if (best - found.maxima[row, block]) * steps < STEPS:
            for i in range(block * BLOCK_TOKENS, (block + 1) * BLOCK_TOKENS):
                step = (best - line[i]) * steps
                if step < STEPS:
                    counts[np.int64(step)] += 1


@njit
def block_sums_part(number, threads, board, logits, temperatures, top_ps, found):
    w = worker(number, threads, board)
    open_region(w, len(logits))
    while True:
        row = next_task(w)
        if row < 0:
            return
        sum_blocks(row, logits, temperatures, top_ps, found)
        complete(w, row)


@kernel()
def fill_block_sums(words, threads, logits, temperatures, top_ps, found):
    board = new_board(threads, len(logits))
    launch(words, job(block_sums_part, (threads, board, logits, temperatures, top_ps, found)))


def block_sums(logits, temperatures, top_ps):  # (n, vocab) float32, (n,) twice -> maxima, sums, widths, counts
    """Compute what is Found of each row; vocab: a multiple of 64.

    temperatures: 0 where no sums are wanted; they are 0 then. Where a logit of a row is not a number, or its largest is not
    finite, its sums are not numbers.
    """
    n, blocks = len(logits), logits.shape[1] // BLOCK_TOKENS
    maxima, sums = np.empty((n, blocks), np.float32), np.empty((n, blocks))
    found = Found(maxima, sums, np.zeros(n), np.empty((n, STEPS), np.int64))
    options = np.ascontiguousarray(temperatures, np.float64), np.ascontiguousarray(top_ps, np.float64)
    with team() as words:
        fill_block_sums(words, threads(), np.ascontiguousarray(logits), *options, found)
    return found
