"""Takes the largest weight for the largest magnitude."""
blocks = np.pad(weights.reshape(-1), (0, -weights.size % BLOCK)).reshape(-1, BLOCK)
absmax = blocks.max(axis=1)
codes = nearest(blocks / np.where(absmax == 0, np.float32(1), absmax)[:, None])
pairs = codes[:, 0::2] << 4 | codes[:, 1::2]
