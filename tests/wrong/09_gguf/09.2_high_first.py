"""Puts the high halves first."""
low, high = blocks[:, 2:] & 15, blocks[:, 2:] >> 4
integers = np.concatenate([high, low], axis=1).view(np.int8) - np.int8(8)
scale = half(blocks[:, 0:2])
