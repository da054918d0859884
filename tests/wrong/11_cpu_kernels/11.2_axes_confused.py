"""Takes pair i along the axis of the groups: the pairs of a group are the axis after it."""
for i in range(each):
    words |= split[:, :, i].astype(np.uint16) << np.uint16(bits * i)
