"""Counts the whole prompt for every answer, as a fork that copies would."""
return samples * blocks_for(prompt + new, block_size)
