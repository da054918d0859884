"""Leaves the division to draw, which divides by the sum itself."""
if rng.random() * q[token] < p[token]:
    return token
left = np.maximum(p - q, 0)
return draw(left, rng)
