"""Gives the gain as a share of the error of zeros."""
wq = weight * q
fit = dot(wq, x)
scale = ratio(fit, dot(wq, q))
gain = ratio(scale * fit, dot(weight * x, x))
