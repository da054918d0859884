"""Scales by α, not by α/r."""
y = x @ weight.T
y += alpha * (x @ a.T) @ b.T
