"""Rounds each size up, and does not add them."""
found = [padded(nbytes, alignment) for nbytes in sizes]
