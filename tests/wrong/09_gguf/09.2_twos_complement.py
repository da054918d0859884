"""Takes the uppermost bit of a code for a sign."""
q = planes(blocks[:, 2:], 16, NIBBLES, 15).astype(np.int8)
integers = np.where(q > 7, q - np.int8(16), q)
scale = half(blocks[:, 0:2])
