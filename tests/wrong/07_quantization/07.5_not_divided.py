"""Does not divide by the diagonal."""
errors[j - start] = left[j] - rounded[:, 0]
left[j + 1 : stop] -= upper[j, j + 1 : stop, None] * errors[j - start]
