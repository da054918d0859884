"""Charges all pages of the leaf, though one goes."""
return node.age + node.uses * sum(1 + (node.start + i) / self.even for i in range(len(node.pages)))
