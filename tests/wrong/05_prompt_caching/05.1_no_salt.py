"""Leaves the salt out: tenants find each other's prompts."""
for start in range(0, len(tokens) - block_size + 1, block_size):
    block = tuple(tokens[start : start + block_size])
    parent = hasher((parent, block))
    yield parent, block
