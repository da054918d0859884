"""Takes the largest tile that fits: the last one is shorter, and all others are higher than they must."""
row = tile_bytes(1, block_k, d, bytes_per_value) - tile_bytes(0, block_k, d, bytes_per_value)
return min((memory - tile_bytes(0, block_k, d, bytes_per_value)) // row, n_q)
