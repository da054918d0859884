"""Averages each chunk's seconds a token: TPOT is all seconds over all tokens."""
tokens = [e for e in events if e.kind == TOKEN]
if not tokens or not any(e.kind == FINISHED for e in events):
    return None, None, None
start = next(e.time for e in events if e.kind == ARRIVED)
reported = max([e.tokens for e in events if e.kind == USAGE], default=0)
paces = []
for index in {e.index for e in tokens}:
    mine = [e for e in tokens if e.index == index]
    each = (reported - len(mine)) / (len(mine) - 1) if reported and len(mine) > 1 else 0
    means = [(b.time - a.time) / (b.tokens + each) for a, b in zip(mine, mine[1:], strict=False)]
    paces += [sum(means) / len(means)] if means else []
times = [e.time for e in tokens]
return min(times) - start, sum(paces) / len(paces) if paces else None, max(times) - start
