"""Looks at the owners and not at what the cache remembers."""
if self.refs[block] == 1:
    return block, None
fresh = self.allocate()
self.free(block)
return fresh, block
