"""How often chance alone exceeds a chi-square: the upper tail of the distribution, by its series or its continued fraction."""

import math


def upper_tail(value, freedom):  # -> probability, to some 12 digits; what is below 1e-300 is 0
    """Q(freedom / 2, value / 2), the regularized incomplete gamma function (Numerical Recipes, section 6.2)."""
    a, x = freedom / 2, value / 2
    if x <= 0:
        return 1.0
    factor = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        for n in range(1, 10_000):
            term *= x / (a + n)
            total += term
            if term < 1e-16 * total:
                break
        return 1 - factor * total
    b, c = x + 1 - a, 1e300
    d = h = 1 / b
    for n in range(1, 10_000):
        step, b = -n * (n - a), b + 2
        d, c = 1 / (step * d + b), b + step / c
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return factor * h
