"""Gives the number to multiply weights with, not the one to multiply codes with."""
wq = weight * q
scale = ratio(dot(wq, q), np.abs(dot(wq, x))) * np.sign(dot(wq, x))
