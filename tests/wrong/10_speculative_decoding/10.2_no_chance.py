"""Accepts where p is at least q, and never else."""
if p[token] >= q[token]:
    return token
left = np.maximum(p - q, 0)
return draw(left / left.sum(), rng)
