"""Takes sixteen words for a register: those are eight lanes."""
bit = bits * (column // 2)
return 16 * (bit // 16) + 2 * lane + column % 2, bit % 16
