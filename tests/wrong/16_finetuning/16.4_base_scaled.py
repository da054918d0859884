"""Scales the base too."""
y = (alpha / len(a)) * (x @ weight.T + x @ a.T @ b.T)
