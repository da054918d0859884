"""Copies even where nobody else would see the write."""
fresh = self.allocate()
self.free(block)
return fresh, block
