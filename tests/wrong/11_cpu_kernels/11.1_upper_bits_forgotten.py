"""Reads four bits of every code."""
pair, at = column // 2, 2 * lane + column % 2
if bits == 8:
    return words[32 * (pair // 2) + at] >> 8 * (pair % 2) & 255
return words[32 * (pair // 4) + at] >> 4 * (pair % 4) & 15
