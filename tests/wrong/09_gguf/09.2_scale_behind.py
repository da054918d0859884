"""Looks for the scale at the end of the block, where the K types have it."""
q = planes(blocks[:, :16], 16, NIBBLES, 15)
integers = q.view(np.int8) - np.int8(8)
scale = half(blocks[:, 16:18])
