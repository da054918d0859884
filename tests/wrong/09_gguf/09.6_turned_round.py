"""Fits q by x, not x by q."""
scale = ratio(dot(weight * x, x), dot(weight * q, x))
