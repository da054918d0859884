"""Looks for blocks answer by answer: a request is planned in part, and then leaves."""
for sequence, n in takes:
    while group in scheduler.running and blocks_needed([(sequence.table, n)]) > pool.num_free:
        last = scheduler.running.pop()
        preempt(last, scheduler.host, self.plan)
        scheduler.preempted.appendleft(last)
        if last is not group:
            todo.pop()
    if group in scheduler.running:
        self.plan_shares([(sequence, n)])
