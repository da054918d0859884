"""Reads A once for each row of tiles: it is the tiles side by side that read the same rows again."""
return m * k * math.ceil(m / rows) + k * n * math.ceil(n / columns) + m * n
