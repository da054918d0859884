"""Divides by zero where all q are 0."""
wq = weight * q
fit = dot(wq, x)
scale = fit / dot(wq, q)
gain = scale * fit
