"""Leaves the upper two bits in the first four, where they do not belong."""
a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
scale = np.concatenate([a, (c & 15) | ((a >> 6) << 4)], axis=1)
minimum = np.concatenate([b, (c >> 4) | ((b >> 6) << 4)], axis=1)
