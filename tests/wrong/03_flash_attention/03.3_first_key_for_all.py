"""Lets a query before all keys stand at the first one: it sees a key that comes after it."""
position = np.maximum(0, self.offset + np.arange(rows.start, rows.stop))[:, None]
key = np.arange(columns.start, columns.stop)[None, :]
seen = np.full((len(position), key.shape[1]), True)
if self.causal:
    seen &= key <= position
if self.window is not None:
    seen &= key > position - self.window
