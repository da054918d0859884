"""Gives the error that is left where the gain is wanted."""
wq = weight * q
scale = ratio(dot(wq, x), dot(wq, q))
gain = (weight * np.square(x - scale * q)).sum(axis=0)
