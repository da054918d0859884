"""Takes a block that ends with the prompt for a partial one."""
for start in range(0, len(tokens) - block_size, block_size):
    block = tuple(tokens[start : start + block_size])
    parent = hasher((parent, block, salt))
    yield parent, block
