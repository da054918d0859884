"""Counts what is read and not what is written."""
return m * k * math.ceil(n / columns) + k * n * math.ceil(m / rows)
