"""Divides α by √r."""
y = x @ weight.T
y += (alpha / len(a) ** 0.5) * (x @ a.T) @ b.T
