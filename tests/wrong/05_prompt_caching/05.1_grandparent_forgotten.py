"""Chains to the tokens of the block before, not to its name."""
for start in range(0, len(tokens) - block_size + 1, block_size):
    block = tuple(tokens[start : start + block_size])
    before = tuple(tokens[max(0, start - block_size) : start]) if start else parent
    yield hasher((before, block, salt)), block
