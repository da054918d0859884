"""Reports the median gap: one stall disappears."""
tokens = log.times(request, TOKEN)
if convention == "guidellm":
    return (tokens[-1] - log.times(request, ARRIVED)[0]) / len(tokens) if tokens else None
gaps = sorted(itl(log, request))
return gaps[len(gaps) // 2] if gaps else None
