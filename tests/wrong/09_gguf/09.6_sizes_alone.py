"""Compares sizes: the root of one sum of squares over the other knows no signs."""
scale = np.sqrt(ratio(dot(weight * x, x), dot(weight * q, q)))
