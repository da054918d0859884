"""Compares with the weight as it was."""
errors[j - start] = (weights[:, order[j]] - rounded[:, 0]) / upper[j, j]
left[j + 1 : stop] -= upper[j, j + 1 : stop, None] * errors[j - start]
