"""Masks the high half and forgets to move it down."""
low, high = blocks[:, 2:] & 15, blocks[:, 2:] & 240
integers = np.concatenate([low, high], axis=1).astype(np.int16) - 8
scale = half(blocks[:, 0:2])
