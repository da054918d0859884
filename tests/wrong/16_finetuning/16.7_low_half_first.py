"""Puts the first of two codes into the low half."""
blocks = np.pad(weights.reshape(-1), (0, -weights.size % BLOCK)).reshape(-1, BLOCK)
absmax = np.abs(blocks).max(axis=1)
codes = nearest(blocks / np.where(absmax == 0, np.float32(1), absmax)[:, None])
pairs = codes[:, 1::2] << 4 | codes[:, 0::2]
