"""Takes q at another temperature than the draft was drawn at."""
q = q**2 / (q**2).sum()
if rng.random() * q[token] < p[token]:
    return token
left = np.maximum(p - q, 0)
return draw(left / left.sum(), rng)
