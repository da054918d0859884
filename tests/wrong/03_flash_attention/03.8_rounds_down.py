"""Rounds the height down: a few rows are left, and K and V pass by once more for them."""
most = 1
while tile_bytes(most + 1, block_k, d, bytes_per_value) <= memory:
    most += 1
return max(1, n_q // -(-n_q // most))
