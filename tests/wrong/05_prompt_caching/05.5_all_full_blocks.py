"""Takes all full blocks: a prompt that ends with one has nothing left to compute."""
return list(tokens[: len(tokens) // block_size * block_size])
