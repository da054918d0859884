"""Multiplies both factors of each sum by the weight."""
wx, wq = weight * x, weight * q
scale = ratio(dot(wq, wx), dot(wq, wq))
