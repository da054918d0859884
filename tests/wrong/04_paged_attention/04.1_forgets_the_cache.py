"""Makes every block blank, remembered or not."""
self.refs[block] -= 1
if self.refs[block] == 0:
    self.blank.append(block)
