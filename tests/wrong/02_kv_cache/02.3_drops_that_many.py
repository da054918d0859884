"""Takes the argument for the number of tokens to drop."""
self.lengths = [n - length for n in self.lengths]
