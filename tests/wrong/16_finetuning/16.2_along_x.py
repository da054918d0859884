"""Takes the second term along x, not x̂."""
d_weight = (d_y * x_hat).reshape(-1, d).sum(axis=0)
g = d_y * weight
d_x = r * (g - x * np.mean(g * x_hat, axis=-1, keepdims=True))
