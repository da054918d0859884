"""Compares weights with the levels as they are."""
blocks = np.pad(weights.reshape(-1), (0, -weights.size % BLOCK)).reshape(-1, BLOCK)
absmax = np.abs(blocks).max(axis=1)
codes = nearest(blocks)
pairs = codes[:, 0::2] << 4 | codes[:, 1::2]
