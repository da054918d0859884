"""Leaves out whoever finds no block and takes none from anybody."""
if growth([(sequence.table, n) for sequence, n in takes]) <= pool.num_free:
    self.take(takes)
