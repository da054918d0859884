"""Rounds the mantissa by itself, and loses the carry."""
keep = np.uint32(0x007FFFFF)
half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1)
mantissa_bits = (bits & keep) + half + (bits >> drop & np.uint32(1))
rounded = (bits & ~keep) | (mantissa_bits >> drop << drop & keep)
