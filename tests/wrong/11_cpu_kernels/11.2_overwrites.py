"""Assigns where it should combine."""
for i in range(each):
    words[:] = split[:, :, :, i].astype(np.uint16) << np.uint16(bits * i)
