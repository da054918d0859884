"""Forgets that drafts which were kept are text."""
sequence.table.truncate(share.position + len(drawn))
self.commit(sequence, share, [])
