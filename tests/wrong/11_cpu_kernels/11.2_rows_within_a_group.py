"""Makes groups of rows, and goes through each row by row."""
group = room - 2
order = []
for first in range(0, rows, group):
    for i in range(first, min(first + group, rows)):
        order += [(i, j) for j in range(columns)]
