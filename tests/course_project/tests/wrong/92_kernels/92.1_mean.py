"""Divides by the size, as if a mean were asked for."""
if i == 0:
    s = x[0] / x.size
else:
    s += x[i] / x.size
