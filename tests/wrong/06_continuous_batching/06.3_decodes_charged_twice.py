"""Takes the decodes off the budget, and then again one by one."""
left = budget - sum(n == 1 for n in pending)
shares = []
for n in pending:
    chunk = 1 if n == 1 else min(n, left)
    left = max(0, left - chunk)
    shares.append(chunk)
return shares
