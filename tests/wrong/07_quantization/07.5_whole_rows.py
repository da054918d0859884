"""Tells all columns, those behind the block twice."""
errors[j - start] = (left[j] - rounded[:, 0]) / upper[j, j]
left[j + 1 :] -= upper[j, j + 1 :, None] * errors[j - start]
