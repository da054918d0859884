"""Draws from p after a rejection."""
if rng.random() * q[token] < p[token]:
    return token
left = p
return draw(left / left.sum(), rng)
