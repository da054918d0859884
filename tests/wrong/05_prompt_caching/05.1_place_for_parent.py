"""Hashes the block's place instead of what came before."""
for start in range(0, len(tokens) - block_size + 1, block_size):
    block = tuple(tokens[start : start + block_size])
    yield hasher((start, block, salt)), block
