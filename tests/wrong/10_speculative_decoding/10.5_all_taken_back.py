"""Takes the drafts that were kept back too."""
sequence.table.truncate(share.position + 1)
self.commit(sequence, share, drawn)
