"""Lets the error of the weights decide."""
best, least = np.ones(inputs.shape[1], np.float32), np.inf
for alpha in np.arange(steps + 1) / steps:
    scales = scales_at(magnitudes, alpha)
    error = sum(np.square(w - awq(w, scales, grid).dense() / scales).sum() for w in matrices)
    if error < least:
        best, least = scales, error
