"""Makes the cache forget a block when its last owner lets go: it is to be found again."""
self.refs[block] -= 1
if self.refs[block] == 0:
    if block in self.kept:
        self.forget(block)
    self.blank.append(block)
