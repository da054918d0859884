"""Names the last block though it is not full."""
for start in range(0, len(tokens), block_size):
    block = tuple(tokens[start : start + block_size])
    parent = hasher((parent, block, salt))
    yield parent, block
