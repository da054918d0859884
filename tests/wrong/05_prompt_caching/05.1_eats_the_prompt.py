"""Takes the blocks off the caller's prompt."""
while len(tokens) >= block_size:
    block = tuple(tokens[:block_size])
    del tokens[:block_size]
    parent = hasher((parent, block, salt))
    yield parent, block
