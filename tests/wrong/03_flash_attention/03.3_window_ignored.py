"""Forgets the window."""
position = self.offset + np.arange(rows.start, rows.stop)[:, None]
key = np.arange(columns.start, columns.stop)[None, :]
seen = np.full((len(position), key.shape[1]), True)
if self.causal:
    seen &= key <= position
