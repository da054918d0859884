"""Reads O back in, as FlashAttention-1 does."""
if block_q is None:
    matrix = n_q * n_k
    read, written = (n_q + 2 * n_k) * d + 2 * matrix, n_q * d + 2 * matrix
else:
    keys = sum(sees(n_q, n_k, stop, causal) for _, stop in row_tiles(n_q, block_q))
    read, written = 2 * n_q * d + 2 * keys * d, n_q * d + n_q
return read * bytes_per_value, written * bytes_per_value
