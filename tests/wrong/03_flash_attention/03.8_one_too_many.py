"""Stops after the first tile that does not fit."""
block_q = 1
while tile_bytes(block_q, block_k, d, bytes_per_value) <= memory:
    block_q += 1
return -(-n_q // -(-n_q // block_q))
