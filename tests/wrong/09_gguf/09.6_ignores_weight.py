"""Leaves the weight out: all errors count alike."""
scale = ratio(dot(q, x), dot(q, q))
