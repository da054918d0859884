"""Counts in units of the alignment."""
found, end = [], 0
for nbytes in sizes:
    found.append(end)
    end += -(-nbytes // alignment)
