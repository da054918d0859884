"""Gives where each tensor ends."""
found, end = [], 0
for nbytes in sizes:
    end += padded(nbytes, alignment)
    found.append(end)
