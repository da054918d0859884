"""Scales dy first, and B's gradient again with the scaled low of forward."""
scale = alpha / len(a)
d_y = scale * d_y
d_low = d_y @ b
d_x, d_a = d_low @ a, d_low.T @ x
d_b = d_y.T @ (scale * linear(x, a))
