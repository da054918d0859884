"""A matrix as six numbers for a kernel (bands.MatrixHandle): where its code and its records are."""

from minillm.backends.numba_ import floats, levels
from minillm.backends.numba_.bands import MatrixHandle, bands_times_tokens
from minillm.backends.numba_.packed import PackedMatrix


def handle(matrix):  # PackedMatrix or FloatMatrix -> MatrixHandle
    """Make the handle of a matrix. Its code is compiled, or read from disk, when the first of its kind is met."""
    if isinstance(matrix, PackedMatrix) and matrix.layout.levels:
        return MatrixHandle(levels.bands_times_tokens(matrix.number).address, *matrix.place, rounds=0)
    if isinstance(matrix, PackedMatrix):
        return MatrixHandle(bands_times_tokens(matrix.number, matrix.x_bits).address, *matrix.place, rounds=matrix.x_bits)
    return MatrixHandle(floats.bands_times_tokens(matrix.width).address, *matrix.place, rounds=0)
