"""Divides by zero where all q are 0."""
wq = weight * q
scale = dot(wq, x) / dot(wq, q)
