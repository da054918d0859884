"""Takes q - p for the residual."""
if rng.random() * q[token] < p[token]:
    return token
left = np.maximum(q - p, 0)
return draw(left / left.sum(), rng)
