"""Puts a preempted request behind those who were sent back before."""
while blocks_needed([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
    last = scheduler.running.pop()
    preempt(last, scheduler.host, self.plan)
    scheduler.preempted.append(last)
    if last is group:
        break
    todo.pop()
else:
    self.plan_shares(takes)
