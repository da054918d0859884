"""Goes through the kernels and the tiles, and adds up what each one moves."""
read = written = 0
kernels = [(n_q * d + n_k * d, n_q * n_k), (n_q * n_k, n_q * n_k), (n_q * n_k + n_k * d, n_q * d)]
for loads, stores in kernels if block_q is None else ():
    read, written = read + loads, written + stores
for start in range(0, n_q if block_q else 0, block_q or 1):
    stop = min(start + block_q, n_q)
    keys = max(0, n_k - n_q + stop) if causal else n_k
    read += ((stop - start) + 2 * keys) * d
    written += (stop - start) * (d + 1)
return bytes_per_value * read, bytes_per_value * written
