"""Tries the numbers from the largest on."""
most = max(0, min(len(sequence.drafts), sequence.room - 1, self.left))
fits = [n for n in range(1, most + 1) if self.pool.can_allocate(sequence.table.blocks_for(n))]
if fits:
    n = fits[-1]
    sequence.table.append(n)
    share.tokens = [*share.tokens, *sequence.drafts[:n]]
    share.blocks = list(sequence.table.blocks)
    share.drafts = n
    self.left -= n
