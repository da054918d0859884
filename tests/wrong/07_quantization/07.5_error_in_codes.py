"""Takes the code for what comes back."""
errors[j - start] = (left[j] - code[:, 0]) / upper[j, j]
left[j + 1 : stop] -= upper[j, j + 1 : stop, None] * errors[j - start]
