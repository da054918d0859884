"""Takes |p - q| for the residual."""
if rng.random() * q[token] < p[token]:
    return token
left = np.abs(p - q)
return draw(left / left.sum(), rng)
