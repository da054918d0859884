"""Takes off as many as were kept."""
sequence.table.truncate(sequence.table.length - (len(drawn) - 1))
self.commit(sequence, share, drawn)
