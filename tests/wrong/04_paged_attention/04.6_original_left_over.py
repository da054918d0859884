"""Counts the last block of the prompt beside the copies: the last who writes to it keeps it."""
shared = prompt // block_size
own = blocks_for(prompt + new, block_size) - shared
return shared + samples * own + (1 if new and prompt % block_size else 0)
