"""Swaps the two halves of a lane."""
for i in range(each):
    words |= split[:, :, :, i, :, ::-1].astype(np.uint16) << np.uint16(bits * i)
