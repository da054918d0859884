"""Takes the correlation of x and q for the gain."""
wq = weight * q
gain = dot(wq, x)
scale = ratio(gain, dot(wq, q))
