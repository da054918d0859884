"""Leaves out a group that finds no block and preempts none."""
if blocks_needed([(sequence.table, n) for sequence, n in takes]) <= pool.num_free:
    self.plan_shares(takes)
