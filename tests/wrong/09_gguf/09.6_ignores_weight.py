"""Leaves the weight out: all errors count alike."""
fit, size = dot(q, x), dot(q, q)
scale = ratio(fit, size)
gain = scale * fit
