"""Forgets the pages above the leaf."""
return node.age + node.uses * (1 + (len(node.pages) - 1) / self.even)
