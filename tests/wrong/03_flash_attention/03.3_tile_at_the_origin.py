"""Masks each tile as if it held the first queries and keys."""
position = self.offset + np.arange(rows.stop - rows.start)[:, None]
key = np.arange(columns.stop - columns.start)[None, :]
seen = np.full((len(position), key.shape[1]), True)
if self.causal:
    seen &= key <= position
if self.window is not None:
    seen &= key > position - self.window
