"""Scales what flows back to A, and not the gradient of B."""
scale = alpha / len(a)
d_low = scale * (d_y @ b)
d_x, d_a = d_low @ a, d_low.T @ x
d_b = (d_y.T @ linear(x, a))
