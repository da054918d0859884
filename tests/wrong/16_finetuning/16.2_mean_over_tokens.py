"""Takes the mean over the tokens."""
d_weight = (d_y * x_hat).reshape(-1, d).sum(axis=0)
g = d_y * weight
d_x = r * (g - x_hat * np.mean(g * x_hat, axis=0, keepdims=True))
