"""Asks the first matrix only."""
best, least = np.ones(inputs.shape[1], np.float32), np.inf
for alpha in np.arange(steps + 1) / steps:
    scales = scales_at(magnitudes, alpha)
    error = error_on(matrices[0], awq(matrices[0], scales, grid).dense() / scales, inputs)
    if error < least:
        best, least = scales, error
