"""Forgets that a request may have no token: the other convention divides by zero."""
tokens = log.times(request, TOKEN)
if convention == "guidellm":
    return (tokens[-1] - log.times(request, ARRIVED)[0]) / len(tokens)
return (tokens[-1] - tokens[0]) / (len(tokens) - 1) if len(tokens) > 1 else None
