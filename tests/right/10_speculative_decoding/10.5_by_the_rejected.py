"""Takes off as many as were rejected."""
rejected = share.drafts - (len(drawn) - 1)
sequence.table.truncate(sequence.table.length - rejected)
self.commit(sequence, share, list(drawn))
