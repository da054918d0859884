"""Always leaves a block, also where the tail of the prompt is in none."""
return list(tokens[: max(0, len(tokens) // block_size - 1) * block_size])
