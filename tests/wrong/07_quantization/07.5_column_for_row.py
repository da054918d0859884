"""Takes the column of U."""
errors[j - start] = (left[j] - rounded[:, 0]) / upper[j, j]
left[j + 1 : stop] -= upper[j + 1 : stop, j, None] * errors[j - start]
