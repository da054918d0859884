"""Keeps the watermark free, which is for newcomers: who runs gives way without need."""
while not pool.can_allocate(blocks_needed([(sequence.table, n) for sequence, n in takes])):
    last = scheduler.running.pop()
    preempt(last, scheduler.host, self.plan)
    scheduler.preempted.appendleft(last)
    if last is group:
        break
    todo.pop()
else:
    self.plan_shares(takes)
