"""Gives a slot for the position after the last, where there is one."""
stop = min(stop + 1, len(blocks) * size)
return [blocks[position // size] * size + position % size for position in range(start, stop)]
