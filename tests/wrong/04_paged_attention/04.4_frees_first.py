"""Gives up the old block before there is a new one."""
if self.refs[block] == 1 and block not in self.kept:
    return block, None
self.free(block)
return self.allocate(), block
