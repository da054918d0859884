"""Takes attention for all of the cost: a first page would be free."""
before = node.start + len(node.pages) - 1
return node.age + node.uses * before / self.even
