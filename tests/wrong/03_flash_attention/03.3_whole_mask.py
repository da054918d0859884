"""Makes the whole mask and cuts the tile out of it: n² entries, which is what tiles are to avoid."""
position = self.offset + np.arange(self.n_q)[:, None]
key = np.arange(self.n_k)[None, :]
seen = np.full((self.n_q, self.n_k), True)
if self.causal:
    seen &= key <= position
if self.window is not None:
    seen &= key > position - self.window
seen = seen[rows, columns]
