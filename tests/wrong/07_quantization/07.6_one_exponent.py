"""Takes α = 1/2 and searches nothing."""
best = scales_at(magnitudes, 0.5)
