"""Puts the weight into the upper sum only."""
scale = ratio(dot(weight * q, x), dot(q, q))
