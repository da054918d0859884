"""Uses one random number twice."""
u = rng.random()
if u * q[token] < p[token]:
    return token
left = np.maximum(p - q, 0)
return int(np.searchsorted(np.cumsum(left / left.sum()), u, side="right"))
