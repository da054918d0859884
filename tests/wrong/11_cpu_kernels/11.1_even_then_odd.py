"""Puts all even halves first, then all odd ones."""
bit = bits * (column // 2)
return 32 * (bit // 16) + lane + 16 * (column % 2), bit % 16
