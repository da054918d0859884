"""Scales dy in place: what W passes down is scaled with it."""
d_y *= alpha / len(a)
d_low = d_y @ b
d_x, d_a = d_low @ a, d_low.T @ x
d_b = d_y.T @ linear(x, a)
