"""Counts the error from the other side."""
errors[j - start] = (rounded[:, 0] - left[j]) / upper[j, j]
left[j + 1 : stop] -= upper[j, j + 1 : stop, None] * errors[j - start]
