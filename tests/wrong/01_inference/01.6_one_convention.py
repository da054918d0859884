"""Ignores the convention."""
tokens = log.times(request, TOKEN)
return (tokens[-1] - tokens[0]) / (len(tokens) - 1) if len(tokens) > 1 else None
