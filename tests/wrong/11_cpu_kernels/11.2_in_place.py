"""Shifts the pairs it was given."""
for i in range(each):
    words |= split[:, :, :, i].astype(np.uint16) << np.uint16(bits * i)
pairs &= 1
