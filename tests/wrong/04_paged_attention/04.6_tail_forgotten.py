"""Counts an answer from an empty block: the tail of the prompt takes part of its first one."""
return prompt // block_size + samples * blocks_for(new, block_size)
