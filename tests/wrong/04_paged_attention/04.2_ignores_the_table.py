"""Takes the position itself for the slot."""
return list(range(start, stop))
