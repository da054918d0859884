"""Takes an arrival at time 0 for none: a simulator's clock begins there."""
tokens = [e.time for e in events if e.kind == TOKEN]
start = next((e.time for e in events if e.kind == ARRIVED), None)
if not tokens or not start or not any(e.kind == FINISHED for e in events):
    return None, None, None
return min(tokens) - start, tpot(log, request), max(tokens) - start
