"""Calls hash whatever hasher was given."""
for start in range(0, len(tokens) - block_size + 1, block_size):
    block = tuple(tokens[start : start + block_size])
    parent = hash((parent, block, salt))
    yield parent, block
