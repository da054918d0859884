"""Takes no column apart."""
return int8_linear(quantize_int8(x, "row"), quantize_int8(w, "row"), matmul)
