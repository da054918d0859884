"""Takes the larger of mean square and eps: a guard against zero, and another function."""
mean_square = np.mean(x * x, axis=-1, keepdims=True)
return x / np.sqrt(np.maximum(mean_square, np.float32(eps))) * weight
