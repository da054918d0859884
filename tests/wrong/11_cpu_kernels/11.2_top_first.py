"""Puts the first pair into the highest bits."""
for i in range(each):
    words |= split[:, :, :, i].astype(np.uint16) << np.uint16(bits * (each - 1 - i))
