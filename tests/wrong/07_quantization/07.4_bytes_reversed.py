"""Forgets the order of bits in a byte."""
single = codes[:, :, None] >> np.arange(bits, dtype=np.uint8) & np.uint8(1)
return np.packbits(single.reshape(len(codes), -1), axis=1)
