"""Copies even where the block has no other owner."""
fresh = self.allocate()
self.free(block)
return fresh, block
