"""Counts the gain without the weight."""
wq = weight * q
scale = ratio(dot(wq, x), dot(wq, q))
gain = dot(x, x) - np.square(x - scale * q).sum(axis=0)
