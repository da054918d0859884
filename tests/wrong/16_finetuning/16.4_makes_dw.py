"""Computes dW and takes both gradients out of it: a matrix as large as W, at every step."""
scale = alpha / len(a)
d_weight = scale * (d_y.T @ x)
d_x, d_a, d_b = scale * (d_y @ b) @ a, b.T @ d_weight, d_weight @ a.T
