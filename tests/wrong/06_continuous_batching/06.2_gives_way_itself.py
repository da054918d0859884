"""Preempts the group that lacks a block, though others came later."""
if blocks_needed([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
    scheduler.running.remove(group)
    preempt(group, scheduler.host, self.plan)
    scheduler.preempted.appendleft(group)
else:
    self.plan_shares(takes)
