"""Lays the words of a row side by side, as a file would."""
bit = bits * (column // 2)
return 2 * bits * lane + 2 * (bit // 16) + column % 2, bit % 16
