"""Tells the next column only."""
errors[j - start] = (left[j] - rounded[:, 0]) / upper[j, j]
left[j + 1 : min(j + 2, stop)] -= upper[j, j + 1 : min(j + 2, stop), None] * errors[j - start]
