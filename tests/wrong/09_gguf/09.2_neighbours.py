"""Makes neighbours of the two halves of a byte."""
low, high = blocks[:, 2:] & 15, blocks[:, 2:] >> 4
integers = np.stack([low, high], axis=2).reshape(-1, 32).view(np.int8) - np.int8(8)
scale = half(blocks[:, 0:2])
