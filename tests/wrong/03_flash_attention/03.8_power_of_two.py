"""Takes a power of two, as kernels often do: up to half of the memory stays empty."""
block_q = 1
while block_q < n_q and tile_bytes(2 * block_q, block_k, d, bytes_per_value) <= memory:
    block_q *= 2
return block_q
