"""Starts at arrival: TTFT is counted into the pace."""
tokens = log.times(request, TOKEN)
if convention == "guidellm":
    return (tokens[-1] - log.times(request, ARRIVED)[0]) / len(tokens) if tokens else None
return (tokens[-1] - log.times(request, ARRIVED)[0]) / (len(tokens) - 1) if len(tokens) > 1 else None
