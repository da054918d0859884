"""Takes the blocks that the watermark keeps."""
table, n = sequence.table, min(len(sequence.drafts), sequence.room - 1, self.left)
while n > 0 and table.blocks_for(n) > self.pool.num_free:
    n -= 1
if n > 0:
    table.append(n)
    share.tokens = share.tokens + sequence.drafts[:n]
    share.blocks, share.drafts = table.blocks.copy(), n
    self.left -= n
