"""Lays tensors side by side."""
found, end = [], 0
for nbytes in sizes:
    found.append(end)
    end += nbytes
