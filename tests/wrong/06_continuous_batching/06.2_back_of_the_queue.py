"""Puts a preempted request behind those who were sent back before."""
while growth([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
    last = scheduler.running.pop()
    leave(last, scheduler.host, self.plan)
    scheduler.preempted.append(last)
    if last is group:
        break
    todo.pop()
else:
    self.take(takes)
