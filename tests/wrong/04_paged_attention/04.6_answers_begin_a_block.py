"""Rounds prompt and answer up apart: the first tokens of an answer go into the last block of the prompt."""
return blocks_for(prompt, block_size) + samples * blocks_for(new, block_size)
