"""Lists a remembered block as idle and as blank."""
self.refs[block] -= 1
if self.refs[block] == 0:
    if block in self.kept:
        self.idle[block] = None
        self.cache.on_idle(block)
    self.blank.append(block)
