"""Takes the second word of a lane for the even columns."""
bit = bits * (column // 2)
return 32 * (bit // 16) + 2 * lane + 1 - column % 2, bit % 16
