"""Puts eight levels below 0 and seven above."""
edge = (1 / 32 + 1 / 30) / 2
below, above = np.linspace(edge, 1 / 2, 9), np.linspace(1 / 2, 1 - edge, 8)
quantiles = np.array([NormalDist().inv_cdf(p) for p in (*below, *above[1:])])
levels = quantiles / quantiles.max()
