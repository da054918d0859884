"""Makes the tile as wide as it is high: room that rows of Q could have goes to keys that only pass by."""
block_q = 1
while tile_bytes(block_q + 1, block_q + 1, d, bytes_per_value) <= memory:
    block_q += 1
return min(block_q, n_q)
