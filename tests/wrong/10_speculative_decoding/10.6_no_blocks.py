"""Does not ask whether the pool has blocks."""
table, n = sequence.table, min(len(sequence.drafts), sequence.room - 1, self.left)
if n > 0:
    table.append(n)
    share.tokens = share.tokens + sequence.drafts[:n]
    share.blocks, share.drafts = table.blocks.copy(), n
    self.left -= n
