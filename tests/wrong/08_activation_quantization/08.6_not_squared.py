"""Does not square."""
wrong = np.abs(checked(x) - Int8Matrix(int8_codes(x, scales), scales).dense()).astype(np.float64)
clipped = np.abs(x) > TOP * scales
