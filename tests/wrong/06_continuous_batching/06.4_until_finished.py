"""Counts until FINISHED: the last token is what the user waits for."""
tokens = [e for e in events if e.kind == TOKEN]
if not tokens or not any(e.kind == FINISHED for e in events):
    return None, None, None
start = next(e.time for e in events if e.kind == ARRIVED)
end = next(e.time for e in events if e.kind == FINISHED)
first, last = {}, {}
for e in tokens:
    first.setdefault(e.index, e.time)
    last[e.index] = e.time
decoding = sum(last[i] - first[i] for i in first)
after_first = tokens_of(events, TOKEN, USAGE) - len(first)
gaps_seen = len(tokens) > len(first)
return tokens[0].time - start, decoding / after_first if gaps_seen and after_first > 0 else None, end - start
