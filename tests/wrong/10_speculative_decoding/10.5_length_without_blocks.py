"""Sets the length, and frees no blocks."""
sequence.table.length = share.position + len(drawn)
self.commit(sequence, share, drawn)
