"""Gives the whole memory to rows of Q: the tiles of K and V have no room."""
row = tile_bytes(1, block_k, d, bytes_per_value) - tile_bytes(0, block_k, d, bytes_per_value)
return -(-n_q // -(-n_q // (memory // row)))
