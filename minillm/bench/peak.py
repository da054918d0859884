"""The arithmetic ceiling of the compiled kernels: the instructions that they use, in registers, with nothing else to do.

    integers   a lane of 32 bits: two products of 16-bit numbers, added to a third (backends/numba_/tile.py): 4 FLOPs a lane
    bytes      a lane: four products of 8-bit numbers, for x in 8 bits: 8 FLOPs a lane
    floats     x·y + z (backends/numba_/simd.py): 2 FLOPs a lane
    tiles      a product on the matrix unit, where there is one (backends/numba_/amx.py): 32 FLOPs a number of 16 × 16, since a
               16-bit x takes two

A float32 matrix product is no bound for products with packed weights: the integer instruction does twice as much. Each sum
depends on the one before it, so nothing can be left out; how many such chains keep the units busy differs between processors,
so several numbers of chains are tried, and the fastest counts.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numba import types
from numba.extending import intrinsic

from minillm.backends.numba_ import amx
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.loops import loop_with_sums
from minillm.backends.numba_.processor import MATRIX_UNIT
from minillm.backends.numba_.simd import F32X16, I32, I32X16, LANES, call
from minillm.backends.numba_.tile import I64, dot_fours, dot_pairs, splat_int

CHAINS, KINDS = (4, 8, 12), ("integers", "bytes", "floats")
STEPS = 1 << 18
FLOPS = {"integers": 4 * LANES, "bytes": 8 * LANES, "floats": 2 * LANES, "tiles": 32 * 16 * 16}  # of one instruction of a chain


@intrinsic
def tile_chains(typing: Any, steps: Any) -> Any:
    """Multiply tiles of zeros `steps` times for each of four tiles of sums."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        amx.configure(b, dict.fromkeys(range(6), (LANES, 64)))
        for tile in range(6):
            amx.zero(b, tile)
        with amx.each(b, I64(0), args[0], 1):
            for sums in range(4):
                amx.add_product(b, sums, 4, 5)
        amx.release(b)
        return context.get_dummy_value()

    return types.void(types.int64), emit


@kernel()
def multiply_tiles(steps: int, start: Any) -> Any:
    tile_chains(steps // 16)  # type: ignore[call-arg]  # Numba passes the first
    return start


@intrinsic(prefer_literal=True)
def chain(typing: Any, kind: Any, chains: Any, steps: Any, start: Any) -> Any:
    """Sum up `steps` times in each of `chains` registers. kind, of KINDS, and chains: constants. start: int32. -> int32, to be
    used.
    """
    if not all(isinstance(x, types.IntegerLiteral) for x in (kind, chains)):
        return None

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        first = splat_int(b, args[3])
        floats, dot = KINDS[kind.literal_value] == "floats", dot_fours if KINDS[kind.literal_value] == "bytes" else dot_pairs
        x = b.sitofp(first, F32X16) if floats else first

        def step(i: Any, sums: Any) -> Any:
            if floats:
                return [call(b, "llvm.fma.v16f32", F32X16, total, x, x) for total in sums]
            totals = [b.bitcast(total, I32X16) for total in sums]
            return [b.bitcast(dot(b, total, total, x), F32X16) for total in totals]

        begin = [b.bitcast(b.add(first, splat_int(b, I32(n))), F32X16) for n in range(chains.literal_value)]
        ends = [b.bitcast(total, I32X16) for total in loop_with_sums(b, args[2], begin, step)]
        total = ends[0]
        for end in ends[1:]:
            total = b.xor(total, end)
        return call(b, "llvm.vector.reduce.add.v16i32", I32, total)

    return types.int32(kind, chains, types.int64, types.int32), emit


def make(kind: int, chains: int) -> Callable:
    """Make a kernel of its own: Numba takes constants from the closure."""

    @kernel()
    def run(steps: int, start: Any) -> Any:
        return chain(kind, chains, steps, start)  # type: ignore[call-arg]  # Numba passes the first

    return run


def kernel_flops_per_s(  # int, work -> seconds -> {"integers": FLOP/s, "bytes", "floats", perhaps "tiles"}
    cores: int, best_of: Callable, steps: int = STEPS
) -> dict[str, float]:
    """Measure all cores at once; the fastest number of chains, timed by best_of (machine.py)."""
    import numpy as np

    found: dict[str, float] = {}
    ways = [(name, chains, make(kind, chains), steps) for kind, name in enumerate(KINDS) for chains in CHAINS]
    if MATRIX_UNIT:
        ways.append(("tiles", 4, multiply_tiles, steps // 16))
    with ThreadPoolExecutor(cores) as pool:
        for name, chains, run, count in ways:
            seconds = best_of(lambda run=run: list(pool.map(run, [np.int64(steps)] * cores, [np.int32(1)] * cores)))
            found[name] = max(found.get(name, 0), FLOPS[name] * chains * count * cores / seconds)
    return found
