"""Says to copy from the fresh block to the old one."""
if self.refs[block] == 1 and block not in self.kept:
    return block, None
fresh = self.allocate()
self.free(block)
return block, fresh
