"""Starts each leaf from the age of now: a leaf that loses its end looks just used."""
before = node.start + len(node.pages) - 1
return self.age + node.uses * (1 + before / self.even)
