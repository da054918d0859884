"""Takes all others apart."""
apart = ~outlier_columns(x, threshold)
large = x[:, apart] @ w[:, apart].T
rest = int8_linear(quantize_int8(x[:, ~apart], "row"), quantize_int8(w[:, ~apart], "row"), matmul)
return large + rest
