"""Drops what does not fill a byte."""
single = codes[:, :, None] >> np.arange(bits, dtype=np.uint8) & np.uint8(1)
flat = single.reshape(len(codes), -1)
return np.packbits(flat[:, : flat.shape[1] // 8 * 8], axis=1, bitorder="little")
