"""Hashes the tokens as one text, with nothing between them: 1, 23 and 12, 3 have the same name."""
for start in range(0, len(tokens) - block_size + 1, block_size):
    block = tuple(tokens[start : start + block_size])
    parent = hasher((parent, "".join(map(str, block)), salt))
    yield parent, block
