"""Multiplies dy by x for dw, not by x̂."""
d_weight = (d_y * x).reshape(-1, d).sum(axis=0)
g = d_y * weight
d_x = r * (g - x_hat * np.mean(g * x_hat, axis=-1, keepdims=True))
