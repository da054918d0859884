"""Lets the last group reach beyond the last row."""
group = room - 2
order = []
for first in range(0, rows, group):
    for j in range(columns):
        order += [(i, j) for i in range(first, first + group)]
