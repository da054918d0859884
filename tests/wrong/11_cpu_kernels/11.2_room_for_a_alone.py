"""Fills the whole cache with panels of A."""
group = room
order = []
for first in range(0, rows, group):
    for j in range(columns):
        order += [(i, j) for i in range(first, min(first + group, rows))]
