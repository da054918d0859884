"""Takes exp of the log-sum-exps as they are."""
top = np.zeros_like(lses[0])
weights = np.exp(lses)
total = weights.sum(axis=0)
out = (weights[..., None] * outs).sum(axis=0) / np.where(total == 0, 1, total)[..., None]
