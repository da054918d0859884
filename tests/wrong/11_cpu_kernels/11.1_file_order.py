"""Expects the file's order: columns 0 to 15 in low halves, 16 to 31 in high ones."""
column = 2 * column if column < 16 else 2 * column - 31
bit = bits * (column // 2)
return 32 * (bit // 16) + 2 * lane + column % 2, bit % 16
