"""Takes blocks from the group that has run longest."""
while blocks_needed([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
    first = scheduler.running.pop(0)
    preempt(first, scheduler.host, self.plan)
    scheduler.preempted.appendleft(first)
    if first is group:
        break
    if first in todo:
        todo.remove(first)
else:
    self.plan_shares(takes)
