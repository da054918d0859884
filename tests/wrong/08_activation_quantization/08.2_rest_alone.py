"""Loses the outliers."""
apart = outlier_columns(x, threshold)
rest = int8_linear(quantize_int8(x[:, ~apart], "row"), quantize_int8(w[:, ~apart], "row"), matmul)
return rest
