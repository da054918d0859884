"""Sums dw over the first axis alone: heads keep theirs."""
d_weight = (d_y * x_hat).sum(axis=0)
g = d_y * weight
d_x = r * (g - x_hat * np.mean(g * x_hat, axis=-1, keepdims=True))
