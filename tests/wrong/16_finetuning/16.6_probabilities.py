"""Takes probabilities for levels."""
edge = (1 / 32 + 1 / 30) / 2
below, above = np.linspace(edge, 1 / 2, 8), np.linspace(1 / 2, 1 - edge, 9)
quantiles = np.array([2 * p - 1 for p in (*below, *above[1:])])
levels = quantiles / quantiles.max()
