"""Puts the weight into the upper sum only."""
fit, size = dot(weight * q, x), dot(q, q)
scale = ratio(fit, size)
gain = scale * fit
