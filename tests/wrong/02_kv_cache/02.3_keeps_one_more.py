"""Keeps one token too many."""
self.lengths = [min(n, length + 1) for n in self.lengths]
