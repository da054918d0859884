"""Weighs the cost alone, however often the leaf is used."""
before = node.start + len(node.pages) - 1
return node.age + 1 + before / self.even
