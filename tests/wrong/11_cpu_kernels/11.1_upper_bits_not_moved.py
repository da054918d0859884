"""Adds the upper bits without moving them up."""
pair, at = column // 2, 2 * lane + column % 2
if bits == 8:
    return words[32 * (pair // 2) + at] >> 8 * (pair % 2) & 255
code = words[32 * (pair // 4) + at] >> 4 * (pair % 4) & 15
if bits == 5:
    code |= words[128 + at] >> pair & 1
elif bits == 6:
    code |= words[128 + 32 * (pair // 8) + at] >> 2 * (pair % 8) & 3
return code
