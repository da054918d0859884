"""Leaves out whoever finds no block and takes none from anybody."""
if blocks_needed([(sequence.table, n) for sequence, n in takes]) <= pool.num_free:
    self.plan_shares(takes)
