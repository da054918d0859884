"""Reads C as well, to add to it: its sums stay in registers."""
return m * k * math.ceil(n / columns) + k * n * math.ceil(m / rows) + 2 * m * n
