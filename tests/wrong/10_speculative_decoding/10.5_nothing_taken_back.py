"""Leaves rejected drafts in the table."""
self.commit(sequence, share, drawn)
