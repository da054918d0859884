"""Counts positions from the first new token."""
return [blocks[position // size] * size + position % size for position in range(stop - start)]
