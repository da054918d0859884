"""Starts the clock when the request is scheduled: waiting in the queue and preemption cost nothing."""
tokens = [e for e in events if e.kind == TOKEN]
if not tokens or not any(e.kind == FINISHED for e in events):
    return None, None, None
start = [e.time for e in events if e.kind in (ARRIVED, "scheduled")][-1]
first, last = {}, {}
for e in tokens:
    first.setdefault(e.index, e.time)
    last[e.index] = e.time
decoding = sum(last[i] - first[i] for i in first)
after_first = tokens_of(events, TOKEN, USAGE) - len(first)
tpot = decoding / after_first if after_first > 0 and len(tokens) > len(first) else None
return min(first.values()) - start, tpot, max(last.values()) - start
