"""Tells the cache before the block is idle: the cache looks for it in vain."""
self.refs[block] -= 1
if self.refs[block] == 0:
    if block in self.kept:
        self.cache.on_idle(block)
        self.idle[block] = None
    else:
        self.blank.append(block)
