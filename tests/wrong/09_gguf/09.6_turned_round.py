"""Fits q by x, not x by q."""
fit = dot(weight * q, x)
scale = ratio(dot(weight * x, x), fit)
gain = scale * fit
