"""Takes 8 off unsigned bytes, which wrap around."""
integers = planes(blocks[:, 2:], 16, NIBBLES, 15) - np.uint8(8)
scale = half(blocks[:, 0:2])
