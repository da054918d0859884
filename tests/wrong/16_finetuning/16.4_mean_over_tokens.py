"""Takes the mean over tokens, which dy holds already."""
scale = alpha / len(a)
d_low = scale * (d_y @ b)
d_x, d_a = d_low @ a, d_low.T @ x
d_b = scale * (d_y.T @ linear(x, a))
d_a, d_b = d_a / len(x), d_b / len(x)
