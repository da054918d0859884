"""Takes the mean over axis 1: of one token after the other that is the last axis, of (tokens, heads, d) it is the heads."""
mean_square = np.mean(x * x, axis=1, keepdims=True)
return x / np.sqrt(mean_square + eps) * weight
