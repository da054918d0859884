"""Overlooks negative numbers."""
wrong = np.square(checked(x) - Int8Matrix(int8_codes(x, scales), scales).dense(), dtype=np.float64)
clipped = x > TOP * scales
