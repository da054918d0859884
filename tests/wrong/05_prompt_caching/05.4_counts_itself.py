"""Counts the page among those before it."""
return node.age + node.uses * (1 + (node.start + len(node.pages)) / self.even)
