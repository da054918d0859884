"""Asks for the mean of a column."""
apart = np.abs(x).mean(axis=0) > threshold
large = x[:, apart] @ w[:, apart].T
rest = int8_linear(quantize_int8(x[:, ~apart], "row"), quantize_int8(w[:, ~apart], "row"), matmul)
return large + rest
