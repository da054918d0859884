"""Frees the block though others own it."""
self.refs[block] = 0
if block in self.kept:
    self.idle[block] = None
    self.cache.on_idle(block)
else:
    self.blank.append(block)
