"""Takes back the whole step."""
sequence.table.truncate(share.position)
self.commit(sequence, share, drawn)
