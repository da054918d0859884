"""Divides without rounding: a part of a tile reads as many rows of A as a whole one."""
return m * k * n / columns + k * n * m / rows + m * n
