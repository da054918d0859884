"""Gives the number of tokens."""
return max(0, len(tokens) - 1) // block_size * block_size
