"""Scales by α, not by α/r."""
scale = alpha
d_low = scale * (d_y @ b)
d_x, d_a = d_low @ a, d_low.T @ x
d_b = scale * (d_y.T @ linear(x, a))
