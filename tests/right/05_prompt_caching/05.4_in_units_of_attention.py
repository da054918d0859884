"""Adds products and attention apart, without a name for the cost."""
attention = (node.start + len(node.pages) - 1) / self.even
return node.uses + node.uses * attention + node.age
