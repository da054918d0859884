"""Wants a block more than is needed."""
while blocks_needed([(sequence.table, n) for sequence, n in takes]) >= pool.num_free:
    last = scheduler.running.pop()
    preempt(last, scheduler.host, self.plan)
    scheduler.preempted.appendleft(last)
    if last is group:
        break
    todo.pop()
else:
    self.plan_shares(takes)
