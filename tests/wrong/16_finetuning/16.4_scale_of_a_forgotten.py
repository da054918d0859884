"""Scales dB, and lets A and x have the gradient of an adapter without a scale."""
scale = alpha / len(a)
d_low = (d_y @ b)
d_x, d_a = d_low @ a, d_low.T @ x
d_b = scale * (d_y.T @ linear(x, a))
