"""Frees the block once for each owner who leaves."""
self.refs[block] -= 1
if block in self.kept:
    self.idle[block] = None
    self.cache.on_idle(block)
else:
    self.blank.append(block)
