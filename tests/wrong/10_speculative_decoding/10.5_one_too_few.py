"""Throws the last kept draft away."""
sequence.table.truncate(share.position + len(drawn) - 1)
self.commit(sequence, share, drawn)
