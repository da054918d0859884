"""Reads all keys for each tile, those behind a causal mask as well."""
if block_q is None:
    matrix = n_q * n_k
    read, written = (n_q + 2 * n_k) * d + 2 * matrix, n_q * d + 2 * matrix
else:
    keys = n_k * -(-n_q // block_q)
    read, written = n_q * d + 2 * keys * d, n_q * d + n_q
return read * bytes_per_value, written * bytes_per_value
