"""Recomputes though there is a host to swap to."""
while blocks_needed([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
    last = scheduler.running.pop()
    preempt(last, None, self.plan)
    scheduler.preempted.appendleft(last)
    if last is group:
        break
    todo.pop()
else:
    self.plan_shares(takes)
