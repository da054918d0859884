"""Counts all errors as rounding."""
wrong = np.square(checked(x) - Int8Matrix(int8_codes(x, scales), scales).dense(), dtype=np.float64)
clipped = np.zeros(x.shape, bool)
