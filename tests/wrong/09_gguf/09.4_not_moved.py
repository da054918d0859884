"""Leaves the upper two bits at 64 and 128."""
a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
scale = np.concatenate([a & 63, (c & 15) | (a & 192)], axis=1)
minimum = np.concatenate([b & 63, (c >> 4) | (b & 192)], axis=1)
