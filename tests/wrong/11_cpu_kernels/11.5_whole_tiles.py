"""Takes every tile for a whole one, at the edges too."""
tiles = math.ceil(m / rows) * math.ceil(n / columns)
return tiles * (rows * k + k * columns + rows * columns)
