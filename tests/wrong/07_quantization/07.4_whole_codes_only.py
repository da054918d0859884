"""Begins a new byte for a code that does not fit."""
per = 8 // bits
lonely = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per))).reshape(len(codes), -1, per)
return np.bitwise_or.reduce(lonely << np.arange(per, dtype=np.uint8) * np.uint8(bits), axis=2)
