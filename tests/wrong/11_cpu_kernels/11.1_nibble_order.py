"""Takes the codes of a word from the top."""
width = 8 if bits == 8 else 4
each = 16 // width
pair, at = column // 2, 2 * lane + column % 2
code = words[32 * (pair // each) + at] >> width * (each - 1 - pair % each) & (1 << width) - 1
if bits == 5:
    code |= (words[128 + at] >> pair & 1) << 4
elif bits == 6:
    code |= (words[128 + 32 * (pair // 8) + at] >> 2 * (pair % 8) & 3) << 4
return code
