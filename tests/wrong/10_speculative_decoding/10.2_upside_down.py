"""Accepts with q / p."""
if rng.random() * p[token] < q[token]:
    return token
left = np.maximum(p - q, 0)
return draw(left / left.sum(), rng) if left.sum() else token
