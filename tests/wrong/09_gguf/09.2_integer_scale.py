"""Takes the two bytes of the scale for an integer."""
q = planes(blocks[:, 2:], 16, NIBBLES, 15)
integers = q.view(np.int8) - np.int8(8)
scale = np.ascontiguousarray(blocks[:, 0:2]).view("<u2").astype(np.float32)
