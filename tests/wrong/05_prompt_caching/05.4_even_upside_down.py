"""Multiplies by `even`."""
before = node.start + len(node.pages) - 1
return node.age + node.uses * (1 + before * self.even)
