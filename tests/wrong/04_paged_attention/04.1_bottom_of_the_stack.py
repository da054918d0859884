"""Puts blank blocks at the bottom of the stack: what was just used, and is still in the processor's cache, comes last."""
self.refs[block] -= 1
if self.refs[block] == 0:
    if block in self.kept:
        self.idle[block] = None
        self.cache.on_idle(block)
    else:
        self.blank.insert(0, block)
