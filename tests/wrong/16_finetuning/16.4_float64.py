"""Scales by a NumPy number of 64 bits: the gradients take twice the bytes."""
scale = np.divide(alpha, len(a))
d_low = scale * (d_y @ b)
d_x, d_a = d_low @ a, d_low.T @ x
d_b = scale * (d_y.T @ linear(x, a))
