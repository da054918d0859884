"""Counts until FINISHED: the last token is what the user waits for."""
tokens = [e.time for e in events if e.kind == TOKEN]
end = next((e.time for e in events if e.kind == FINISHED), None)
if not tokens or end is None:
    return None, None, None
start = next(e.time for e in events if e.kind == ARRIVED)
return min(tokens) - start, tpot(log, request), end - start
