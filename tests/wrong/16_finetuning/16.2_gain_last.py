"""Multiplies by w after the mean was taken."""
d_weight = (d_y * x_hat).reshape(-1, d).sum(axis=0)
g = d_y
d_x = weight * r * (g - x_hat * np.mean(g * x_hat, axis=-1, keepdims=True))
