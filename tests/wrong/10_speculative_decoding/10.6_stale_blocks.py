"""Gives the share no room for its drafts."""
table, n = sequence.table, min(len(sequence.drafts), sequence.room - 1, self.left)
while n > 0 and not self.pool.can_allocate(table.blocks_for(n)):
    n -= 1
if n > 0:
    table.append(n)
    share.tokens = share.tokens + sequence.drafts[:n]
    share.drafts = n
    self.left -= n
