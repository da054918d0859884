"""Waits for the first token of answer 0: another may speak before it."""
tokens = [e for e in events if e.kind == TOKEN]
if not tokens or not any(e.kind == FINISHED for e in events):
    return None, None, None
start = next(e.time for e in events if e.kind == ARRIVED)
first = next((e.time for e in tokens if e.index == 0), tokens[0].time)
return first - start, tpot(log, request), max(e.time for e in tokens) - start
