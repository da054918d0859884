"""Reads sixteen numbers of 6 bits one after another, as a tidy person would have packed them."""
bits = np.unpackbits(packed, axis=1, bitorder="little").reshape(-1, 16, 6)
numbers = np.packbits(np.pad(bits, ((0, 0), (0, 0), (0, 2))), axis=2, bitorder="little")[:, :, 0]
scale, minimum = numbers[:, :8], numbers[:, 8:]
