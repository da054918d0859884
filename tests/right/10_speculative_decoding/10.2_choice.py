"""Uses NumPy's choice."""
if rng.random() < min(1.0, p[token] / q[token]):
    return token
left = np.maximum(p - q, 0)
return int(rng.choice(len(p), p=left / left.sum()))
