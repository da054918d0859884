"""Adds the block's number where its first slot belongs."""
return [blocks[position // size] + position % size for position in range(start, stop)]
