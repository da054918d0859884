"""Accepts with p, not with p / q."""
if rng.random() < p[token]:
    return token
left = np.maximum(p - q, 0)
return draw(left / left.sum(), rng) if left.sum() else token
