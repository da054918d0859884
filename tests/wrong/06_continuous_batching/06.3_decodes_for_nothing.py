"""Does not count decodes: budget for prompts, and decodes beside it."""
left = budget
shares = []
for n in pending:
    chunk = 1 if n == 1 else min(n, left)
    left -= chunk if n > 1 else 0
    shares.append(chunk)
return shares
