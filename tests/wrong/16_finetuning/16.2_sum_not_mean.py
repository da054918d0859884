"""Sums g ∘ x̂ where the mean belongs."""
d_weight = (d_y * x_hat).reshape(-1, d).sum(axis=0)
g = d_y * weight
d_x = r * (g - x_hat * np.sum(g * x_hat, axis=-1, keepdims=True))
