"""Rounds sizes down, so that tensors overlap."""
found, end = [], 0
for nbytes in sizes:
    found.append(end)
    end += nbytes // alignment * alignment
