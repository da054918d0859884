"""Rounds first, then takes one token off."""
return list(tokens[: max(0, len(tokens) // block_size * block_size - 1)])
