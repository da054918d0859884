"""An exercise that numba compiles."""

from numba import njit


@njit
def total(x):  # (n,) -> ()
    """Sum of an array, in one loop."""
    for i in range(x.size):
        # BEGIN SOLUTION ex=92.1
        if i == 0:
            s = x[0]
        else:
            s += x[i]
        # END SOLUTION
    return s
