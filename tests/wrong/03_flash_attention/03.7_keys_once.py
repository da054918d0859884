"""Reads K and V once, as if fast memory held all of them."""
if block_q is None:
    matrix = n_q * n_k
    read, written = (n_q + 2 * n_k) * d + 2 * matrix, n_q * d + 2 * matrix
else:
    keys = n_k
    read, written = n_q * d + 2 * keys * d, n_q * d + n_q
return read * bytes_per_value, written * bytes_per_value
