"""Accepts the target's first choice and no other."""
if token == p.argmax():
    return token
left = np.maximum(p - q, 0)
return draw(left / left.sum(), rng) if left.sum() else token
