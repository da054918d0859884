"""Gives blocks to the prefix cache before it takes rejected drafts out."""
self.commit(sequence, share, drawn)
sequence.table.truncate(share.position + len(drawn))
