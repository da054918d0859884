"""Divides the gaps by the number of tokens, which is one more than there are gaps."""
tokens = log.times(request, TOKEN)
if convention == "guidellm":
    return (tokens[-1] - log.times(request, ARRIVED)[0]) / len(tokens) if tokens else None
return (tokens[-1] - tokens[0]) / len(tokens) if len(tokens) > 1 else None
