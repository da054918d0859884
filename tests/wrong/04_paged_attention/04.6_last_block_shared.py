"""Takes the last block of the prompt for shared: answers write into it."""
shared = blocks_for(prompt, block_size)
return shared + samples * (blocks_for(prompt + new, block_size) - shared)
