"""Pools the gaps of all answers: the long answer counts for more than the short one."""
tokens = [e for e in events if e.kind == TOKEN]
if not tokens or not any(e.kind == FINISHED for e in events):
    return None, None, None
start = next(e.time for e in events if e.kind == ARRIVED)
first, last = {}, {}
for e in tokens:
    first.setdefault(e.index, e.time)
    last[e.index] = e.time
decoding = sum(last[i] - first[i] for i in first)
after_first = tokens_of(events, TOKEN, USAGE) - len(first)
tpot = decoding / after_first if after_first > 0 and len(tokens) > len(first) else None
return min(first.values()) - start, tpot, max(last.values()) - start
