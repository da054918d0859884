"""Hashes the block as a list: lists have no hash."""
for start in range(0, len(tokens) - block_size + 1, block_size):
    block = list(tokens[start : start + block_size])
    parent = hasher((parent, block, salt))
    yield parent, tuple(block)
