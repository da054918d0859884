"""Counts in four bits a code, whatever the bits are."""
return 32 * (bits * (column // 2) // 16) + 2 * lane + column % 2, 4 * (column // 2 % 4)
