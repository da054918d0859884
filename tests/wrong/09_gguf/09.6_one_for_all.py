"""Sums over all groups, and gives them one scale."""
wq = weight * q
fit = np.full(x.shape[1:], (wq * x).sum())
size = np.full(x.shape[1:], (wq * q).sum())
scale = ratio(fit, size)
gain = scale * dot(wq, x)
