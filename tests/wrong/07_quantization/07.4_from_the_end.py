"""Begins at the end of a row."""
single = codes[:, :, None] >> np.arange(bits, dtype=np.uint8) & np.uint8(1)
return np.packbits(single[:, ::-1].reshape(len(codes), -1), axis=1, bitorder="little")
