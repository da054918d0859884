"""Never ends, in machine code that holds the interpreter's lock."""
from numba import njit


@njit
def spin(x):
    while x != 0:
        x = x * 3 + 2
    return x


return spin(np.int64(1))
