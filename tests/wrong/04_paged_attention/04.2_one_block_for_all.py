"""Puts all new tokens after the first, whatever block they belong to."""
first = blocks[start // size] * size + start % size
return list(range(first, first + stop - start))
