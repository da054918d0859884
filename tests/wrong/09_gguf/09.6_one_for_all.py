"""Sums over all groups, and gives them one scale."""
wq = weight * q
scale = np.full(x.shape[1:], (wq * x).sum() / max((wq * q).sum(), 1e-30), x.dtype)
