"""Takes a blank block by hand, and says that the pool is full while idle ones could be evicted."""
if self.refs[block] == 1 and block not in self.kept:
    return block, None
if not self.blank:
    raise OutOfBlocks("there is no blank block to copy into.")
fresh = self.blank.pop()
self.refs[fresh] = 1
self.free(block)
return fresh, block
