"""Says 0 for a single token: a perfect score for saying nothing."""
tokens = log.times(request, TOKEN)
if convention == "guidellm":
    return (tokens[-1] - log.times(request, ARRIVED)[0]) / len(tokens) if tokens else None
return (tokens[-1] - tokens[0]) / max(1, len(tokens) - 1) if tokens else None
