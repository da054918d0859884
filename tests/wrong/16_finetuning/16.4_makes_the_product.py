"""Multiplies B and A first: a matrix as large as W, at every call."""
y = x @ (weight + (alpha / len(a)) * (b @ a)).T
