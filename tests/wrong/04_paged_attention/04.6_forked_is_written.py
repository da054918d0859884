"""Counts a copy for each answer before any of them has written."""
shared = prompt // block_size
return shared + samples * (blocks_for(prompt + new, block_size) - shared)
