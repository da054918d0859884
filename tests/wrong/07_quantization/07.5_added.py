"""Adds the error."""
errors[j - start] = (left[j] - rounded[:, 0]) / upper[j, j]
left[j + 1 : stop] += upper[j, j + 1 : stop, None] * errors[j - start]
