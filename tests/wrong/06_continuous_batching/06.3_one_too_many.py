"""Exceeds the budget by one."""
left = budget + 1 - sum(n == 1 for n in pending)
shares = []
for n in pending:
    chunk = 1 if n == 1 else min(n, left)
    left -= chunk if n > 1 else 0
    shares.append(chunk)
return shares
