"""Plain loops in float64."""

import math


def scores(q, k):
    d = len(q[0])
    return [[sum(float(a) * float(b) for a, b in zip(x, y, strict=True)) / math.sqrt(d) for y in k] for x in q]


def softmax(row):
    top = max(row)
    exps = [math.exp(x - top) for x in row]
    return [x / sum(exps) for x in exps]
