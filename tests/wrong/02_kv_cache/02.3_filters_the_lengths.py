"""Takes lengths for a list of tokens, and drops from it."""
self.lengths = [n for n in self.lengths if n < length]
