"""Gives the prefix cache blocks of all drafts."""
self.commit(sequence, share, share.tokens[1:])
sequence.table.truncate(share.position + len(drawn))
