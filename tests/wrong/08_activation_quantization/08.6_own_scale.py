"""Takes the scale from the numbers at hand."""
scales = int8_scales(x, "tensor")
wrong = np.square(checked(x) - Int8Matrix(int8_codes(x, scales), scales).dense(), dtype=np.float64)
clipped = np.abs(x) > TOP * scales
