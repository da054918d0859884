"""Packs all rows as one stream."""
single = codes[:, :, None] >> np.arange(bits, dtype=np.uint8) & np.uint8(1)
return np.packbits(single.reshape(-1), bitorder="little")
