"""Believes that scales and minima are swapped."""
a, b, c = packed[:, 4:8], packed[:, 0:4], packed[:, 8:12]
scale = np.concatenate([a & 63, (c >> 4) | ((a >> 6) << 4)], axis=1)
minimum = np.concatenate([b & 63, (c & 15) | ((b >> 6) << 4)], axis=1)
