"""Takes a blank block by hand: where there is none, the list says so."""
if self.refs[block] == 1 and block not in self.kept:
    return block, None
fresh = self.blank.pop()
self.refs[fresh] = 1
self.free(block)
return fresh, block
