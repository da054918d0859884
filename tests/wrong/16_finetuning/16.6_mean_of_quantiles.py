"""Takes the mean of the two quantiles: the mean of the two probabilities it is."""
inverse = NormalDist().inv_cdf
edge = NormalDist().cdf((inverse(1 / 32) + inverse(1 / 30)) / 2)
below, above = np.linspace(edge, 1 / 2, 8), np.linspace(1 / 2, 1 - edge, 9)
quantiles = np.array([inverse(p) for p in (*below, *above[1:])])
levels = quantiles / quantiles.max()
