"""Counts the token that was drawn last, which is not computed."""
sequence.table.truncate(min(sequence.table.length, share.position + len(drawn) + 1))
self.commit(sequence, share, drawn)
