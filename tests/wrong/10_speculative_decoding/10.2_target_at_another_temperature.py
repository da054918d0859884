"""Takes p at another temperature than the request asks for."""
p = p**2 / (p**2).sum()
if rng.random() * q[token] < p[token]:
    return token
left = np.maximum(p - q, 0)
return draw(left / left.sum(), rng)
