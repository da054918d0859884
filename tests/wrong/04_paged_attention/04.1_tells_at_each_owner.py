"""Tells the cache whenever an owner lets go, also while others hold the block."""
self.refs[block] -= 1
if block in self.kept:
    if self.refs[block] == 0:
        self.idle[block] = None
    self.cache.on_idle(block)
elif self.refs[block] == 0:
    self.blank.append(block)
