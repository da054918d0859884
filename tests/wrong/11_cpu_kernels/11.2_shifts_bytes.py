"""Shifts before widening: what leaves the byte is lost."""
for i in range(each):
    if bits * i < 8:
        words |= split[:, :, :, i] << np.uint8(bits * i)
