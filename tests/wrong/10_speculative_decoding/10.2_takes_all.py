"""Accepts whatever the target could say."""
if p[token] > 0:
    return token
left = np.maximum(p - q, 0)
return draw(left / left.sum(), rng)
