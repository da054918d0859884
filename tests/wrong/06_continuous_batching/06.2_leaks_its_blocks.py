"""Sends the last back to wait and leaves it its blocks."""
while blocks_needed([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
    last = scheduler.running.pop()
    self.plan.preempted += [sequence.id for sequence in last.live]
    scheduler.preempted.appendleft(last)
    if last is group:
        break
    todo.pop()
else:
    self.plan_shares(takes)
