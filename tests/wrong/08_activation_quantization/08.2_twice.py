"""Counts the outliers twice."""
apart = outlier_columns(x, threshold)
large = x[:, apart] @ w[:, apart].T
return large + int8_linear(quantize_int8(x, "row"), quantize_int8(w, "row"), matmul)
