"""Gives A and B half of the cache each, in square groups."""
side = max(1, room // 2)
order = []
for first in range(0, rows, side):
    for left in range(0, columns, side):
        order += [(i, j) for i in range(first, min(first + side, rows)) for j in range(left, min(left + side, columns))]
