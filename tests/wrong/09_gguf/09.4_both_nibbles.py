"""Forgets to mask the low nibble, so the minimum stays in the scale."""
a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
scale = np.concatenate([a & 63, c | ((a >> 6) << 4)], axis=1)
minimum = np.concatenate([b & 63, (c >> 4) | ((b >> 6) << 4)], axis=1)
