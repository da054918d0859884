"""Takes the tokens of all requests for those of one."""
tokens = [e.time for e in log.events if e.kind == TOKEN]
if convention == "guidellm":
    return (tokens[-1] - log.times(request, ARRIVED)[0]) / len(tokens) if tokens else None
return (tokens[-1] - tokens[0]) / (len(tokens) - 1) if len(tokens) > 1 else None
