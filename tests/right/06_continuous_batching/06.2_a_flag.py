"""Asks anew at the top of each turn, and keeps in a flag whether the group itself had to leave."""
gone = False
while not gone and blocks_needed([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
    victim = scheduler.running[-1]
    del scheduler.running[-1]
    preempt(victim, scheduler.host, self.plan)
    scheduler.preempted.insert(0, victim)
    gone = victim is group
    if victim in todo:
        todo.remove(victim)
if not gone:
    self.plan_shares(takes)
