"""Takes the likeliest of the residual, and draws nothing."""
if rng.random() * q[token] < p[token]:
    return token
left = np.maximum(p - q, 0)
return int(left.argmax())
