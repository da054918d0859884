"""Rounds up."""
return list(tokens[: -(-max(0, len(tokens) - 1) // block_size) * block_size])
