"""Multiplies w into dy itself."""
d_weight = (d_y * x_hat).reshape(-1, d).sum(axis=0)
d_y *= weight
g = d_y
d_x = r * (g - x_hat * np.mean(g * x_hat, axis=-1, keepdims=True))
