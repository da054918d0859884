"""Uses the scale of the first block for all."""
q = planes(blocks[:, 2:], 16, NIBBLES, 15)
integers = q.view(np.int8) - np.int8(8)
scale = np.repeat(half(blocks[:1, 0:2]), len(blocks), axis=0)
