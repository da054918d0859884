"""Cuts the arrays, so that the next token has to make them anew."""
self.k, self.v = self.k[:, :length].copy(), self.v[:, :length].copy()
self.lengths = [length] * self.layers
