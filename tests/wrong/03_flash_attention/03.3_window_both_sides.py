"""Takes the window for a band around the query, and shows what comes after."""
position = self.offset + np.arange(rows.start, rows.stop)[:, None]
key = np.arange(columns.start, columns.stop)[None, :]
seen = np.full((len(position), key.shape[1]), True)
if self.window is not None:
    seen &= np.abs(key - position) < self.window
elif self.causal:
    seen &= key <= position
