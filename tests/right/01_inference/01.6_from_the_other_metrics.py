"""Builds on the functions beside it."""
n = len(log.times(request, TOKEN))
if convention == "guidellm":
    return e2e(log, request) / n if n else None
return sum(itl(log, request)) / (n - 1) if n > 1 else None
