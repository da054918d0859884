"""Calls C's system() from machine code, where no audit hook looks."""
from numba import njit, types

system = types.ExternalFunction("system", types.int32(types.voidptr))
command = np.frombuffer(b"touch @OUTSIDE@/mark\0", np.uint8).copy()


@njit
def run(at):
    return system(at)


@njit
def pointer(x):
    return x.ctypes.data


import ctypes

ctypes.CDLL(None).system(b"touch @OUTSIDE@/mark")
