"""Packs the lowest bit of all codes first."""
single = codes[:, :, None] >> np.arange(bits, dtype=np.uint8) & np.uint8(1)
return np.packbits(single.swapaxes(1, 2).reshape(len(codes), -1), axis=1, bitorder="little")
