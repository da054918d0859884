"""Reads the scale with its upper byte first."""
q = planes(blocks[:, 2:], 16, NIBBLES, 15)
integers = q.view(np.int8) - np.int8(8)
scale = np.ascontiguousarray(blocks[:, 0:2]).view(">f2").astype(np.float32)
