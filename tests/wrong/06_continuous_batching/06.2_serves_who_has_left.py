"""Forgets that those who gave way have no turn any more."""
while blocks_needed([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
    last = scheduler.running.pop()
    preempt(last, scheduler.host, self.plan)
    scheduler.preempted.appendleft(last)
    if last is group:
        break
else:
    self.plan_shares(takes)
