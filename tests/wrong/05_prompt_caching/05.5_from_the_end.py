"""Takes the end: a cache holds beginnings."""
n = max(0, len(tokens) - 1) // block_size * block_size
return list(tokens[len(tokens) - n :])
