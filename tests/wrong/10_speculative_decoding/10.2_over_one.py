"""Draws from a residual that does not sum to one, beyond the last token."""
if rng.random() * q[token] < p[token]:
    return token
left = np.maximum(p - q, 0)
return int(np.searchsorted(np.cumsum(left), rng.random(), side="right"))
