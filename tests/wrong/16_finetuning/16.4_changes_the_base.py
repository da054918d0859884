"""Adds B A to W itself, at every call again."""
weight += (alpha / len(a)) * (b @ a)
y = x @ weight.T
