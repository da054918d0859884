"""Takes a quarter of the memory, as the paper does for its own tiles."""
return min(n_q, -(-memory // bytes_per_value // (4 * d)))
