"""Sets back the layers that are longest and leaves the rest as they are."""
longest = max(self.lengths)
self.lengths = [length if n == longest and n != self.length else n for n in self.lengths]
