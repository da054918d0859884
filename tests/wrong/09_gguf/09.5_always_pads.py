"""Adds a unit of padding where a tensor ends on a multiple already."""
found, end = [], 0
for nbytes in sizes:
    found.append(end)
    end += (nbytes // alignment + 1) * alignment
