"""Counts events: three tokens that came in one are three."""
tokens = [e for e in log.events_of(request) if e.kind == TOKEN]
if not tokens:
    return None
if convention == "guidellm":
    return (tokens[-1].time - log.times(request, ARRIVED)[0]) / len(tokens)
return (tokens[-1].time - tokens[0].time) / (len(tokens) - 1) if len(tokens) > 1 else None
