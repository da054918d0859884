"""What the processor can do, and what of it is used: asked once, before any kernel is compiled.

    FEATURES       instructions that Numba compiles for
    VNNI           `vpdpbusd` is among them: bytes times bytes, four a lane, for activations in 8 bits (tile.dot_fours)
    PLAIN          the portable path of plain.py in place of the vector step                  MINILLM_KERNELS=plain
    MATRIX_UNIT    amx.py for sixteen tokens and more: there is a unit, and it may be used    MINILLM_KERNELS=vector: not

A matrix unit has kilobytes of registers, which the system keeps for a process only if that has asked.
"""

import ctypes
import os
import platform
import sys

from numba.core.registry import cpu_target

FEATURES = cpu_target.target_context.codegen().magic_tuple()[2]
VNNI = {"+avx512vnni", "+avx512bw"} <= set(FEATURES.split(","))
CALL_ARCH_PRCTL, REQUEST, TILES = 158, 0x1023, 18  # Linux: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)


def ask_for_tiles():  # -> bool
    """Ask the system whether this process may use a matrix unit: False where there is none, or it is refused."""
    if not {"+amx-bf16", "+avx512bw"} <= set(FEATURES.split(",")) or sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(CALL_ARCH_PRCTL, REQUEST, TILES) == 0


KERNELS = os.environ.get("MINILLM_KERNELS")
PLAIN = KERNELS == "plain"
MATRIX_UNIT = KERNELS not in ("plain", "vector") and ask_for_tiles()
