"""Spaces sixteen probabilities in one row."""
edge = (1 / 32 + 1 / 30) / 2
quantiles = np.array([NormalDist().inv_cdf(p) for p in np.linspace(edge, 1 - edge, 16)])
levels = quantiles / quantiles.max()
