"""Takes the same number of tokens off each layer: one that had run ahead stays ahead."""
dropped = self.length - length
self.lengths = [n - dropped for n in self.lengths]
