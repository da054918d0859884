"""Looks the first token of a block up in the block before."""
return [blocks[max(0, position - 1) // size] * size + position % size for position in range(start, stop)]
