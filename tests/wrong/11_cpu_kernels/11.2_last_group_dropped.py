"""Makes whole groups only."""
group = room - 2
order = []
for first in range(0, rows // group * group, group):
    for j in range(columns):
        order += [(i, j) for i in range(first, min(first + group, rows))]
