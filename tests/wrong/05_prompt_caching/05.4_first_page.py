"""Takes the depth of the leaf's first page."""
return node.age + node.uses * (1 + node.start / self.even)
