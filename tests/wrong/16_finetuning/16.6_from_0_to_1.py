"""Begins at probability 0, whose quantile is infinite."""
edge = 1e-16
below, above = np.linspace(edge, 1 / 2, 8), np.linspace(1 / 2, 1 - edge, 9)
quantiles = np.array([NormalDist().inv_cdf(min(p, 1 - 1e-16)) for p in (*below, *above[1:])])
levels = quantiles / quantiles.max()
