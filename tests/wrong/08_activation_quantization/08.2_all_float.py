"""Multiplies floats."""
return x @ w.T
