"""Tells the cache of every block that is free, also of those it does not keep."""
self.refs[block] -= 1
if self.refs[block] == 0:
    if block in self.kept:
        self.idle[block] = None
    else:
        self.blank.append(block)
    if self.cache is not None:
        self.cache.on_idle(block)
