"""Puts the first pair into the highest bits."""
bit = bits * (column // 2)
return 32 * (bit // 16) + 2 * lane + column % 2, 16 - bits - bit % 16
