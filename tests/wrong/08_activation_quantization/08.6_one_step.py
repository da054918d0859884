"""Takes the scale for the maximum."""
wrong = np.square(checked(x) - Int8Matrix(int8_codes(x, scales), scales).dense(), dtype=np.float64)
clipped = np.abs(x) > scales
