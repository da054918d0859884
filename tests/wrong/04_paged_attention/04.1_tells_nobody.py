"""Does not tell the cache that a block is idle."""
self.refs[block] -= 1
if self.refs[block] == 0:
    if block in self.kept:
        self.idle[block] = None
    else:
        self.blank.append(block)
