"""Gives the layer below nothing: takes A and B for a branch that ends here."""
scale = alpha / len(a)
d_low = scale * (d_y @ b)
d_x, d_a = d_low @ a, d_low.T @ x
d_b = scale * (d_y.T @ linear(x, a))
d_x = np.zeros_like(x)
