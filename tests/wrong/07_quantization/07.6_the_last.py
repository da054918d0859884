"""Keeps the last."""
best, least = np.ones(inputs.shape[1], np.float32), np.inf
for alpha in np.arange(steps + 1) / steps:
    scales = scales_at(magnitudes, alpha)
    error = sum(error_on(w, awq(w, scales, grid).dense() / scales, inputs) for w in matrices)
    if error != least:
        best, least = scales, error
