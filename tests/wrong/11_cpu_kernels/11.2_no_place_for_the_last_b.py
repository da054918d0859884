"""Fills the cache with A but for one panel: the next B drives out an A, that A the next one, and so on."""
group = room - 1
order = []
for first in range(0, rows, group):
    for j in range(columns):
        order += [(i, j) for i in range(first, min(first + group, rows))]
