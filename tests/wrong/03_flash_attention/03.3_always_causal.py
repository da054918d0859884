"""Is causal whether it was asked to be or not."""
position = self.offset + np.arange(rows.start, rows.stop)[:, None]
key = np.arange(columns.start, columns.stop)[None, :]
seen = np.full((len(position), key.shape[1]), True)
seen &= key <= position
if self.window is not None:
    seen &= key > position - self.window
