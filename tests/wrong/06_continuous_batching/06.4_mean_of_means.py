"""Takes the mean of the answers' means: an answer of two tokens weighs as much as one of two hundred."""
tokens = [e for e in events if e.kind == TOKEN]
if not tokens or not any(e.kind == FINISHED for e in events):
    return None, None, None
start = next(e.time for e in events if e.kind == ARRIVED)
times = {}
for e in tokens:
    times.setdefault(e.index, []).append(e)
counts = {i: tokens_of(of, TOKEN, USAGE) for i, of in times.items()}
if len(times) == 1:
    counts = {i: tokens_of(events, TOKEN, USAGE) for i in times}
paces = [(of[-1].time - of[0].time) / (counts[i] - 1) for i, of in times.items() if len(of) > 1]
return tokens[0].time - start, sum(paces) / len(paces) if paces else None, tokens[-1].time - start
