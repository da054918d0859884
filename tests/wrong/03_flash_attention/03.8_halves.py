"""Halves the rows until they fit: equally high, but often far lower than they could be."""
block_q = n_q
while tile_bytes(block_q, block_k, d, bytes_per_value) > memory:
    block_q = -(-block_q // 2)
return block_q
