"""Leaves out the block that is not full yet."""
if new == 0:
    return blocks_for(prompt, block_size)
shared = prompt // block_size
return shared + samples * ((prompt + new) // block_size - shared)
