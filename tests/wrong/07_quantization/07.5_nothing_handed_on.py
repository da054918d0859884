"""Hands nothing on within the block."""
errors[j - start] = (left[j] - rounded[:, 0]) / upper[j, j]
