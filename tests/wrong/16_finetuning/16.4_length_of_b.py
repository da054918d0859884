"""Takes the length of B for the rank."""
y = x @ weight.T
y += (alpha / len(b)) * (x @ a.T) @ b.T
