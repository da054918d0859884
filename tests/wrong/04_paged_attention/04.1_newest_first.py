"""Puts what was freed last where the oldest is looked for."""
self.refs[block] -= 1
if self.refs[block] == 0:
    if block in self.kept:
        self.idle[block] = None
        self.idle.move_to_end(block, last=False)
        self.cache.on_idle(block)
    else:
        self.blank.append(block)
