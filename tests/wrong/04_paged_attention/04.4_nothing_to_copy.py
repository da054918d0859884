"""Takes a fresh block and forgets what was in the old one."""
if self.refs[block] == 1 and block not in self.kept:
    return block, None
fresh = self.allocate()
self.free(block)
return fresh, None
