"""Takes nibbles apart by division, in wide integers."""
data = blocks[:, 2:].astype(np.int32)
integers = np.concatenate([data % 16, data // 16], axis=1) - 8
scale = half(blocks[:, :2])
