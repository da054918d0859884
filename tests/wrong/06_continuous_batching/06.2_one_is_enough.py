"""Preempts one and goes on, whether that was enough or not."""
if blocks_needed([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
    last = scheduler.running.pop()
    preempt(last, scheduler.host, self.plan)
    scheduler.preempted.appendleft(last)
    if last is group:
        continue
    todo.pop()
self.plan_shares(takes)
