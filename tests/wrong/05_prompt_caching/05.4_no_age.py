"""Leaves the age out: old fame never fades."""
before = node.start + len(node.pages) - 1
return node.uses * (1 + before / self.even)
