"""Recomputes though there is a host to swap to."""
while growth([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
    last = scheduler.running.pop()
    leave(last, None, self.plan)
    scheduler.preempted.appendleft(last)
    if last is group:
        break
    todo.pop()
else:
    self.take(takes)
