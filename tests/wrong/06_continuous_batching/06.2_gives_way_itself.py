"""Whoever lacks a block leaves, though others came later."""
if growth([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
    scheduler.running.remove(group)
    leave(group, scheduler.host, self.plan)
    scheduler.preempted.appendleft(group)
else:
    self.take(takes)
