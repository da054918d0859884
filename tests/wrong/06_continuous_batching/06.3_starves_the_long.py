"""Takes a prompt only if it fits whole: a long one never does."""
left = budget - sum(n == 1 for n in pending)
shares = []
for n in pending:
    chunk = 1 if n == 1 else n if n <= left else 0
    left -= chunk if n > 1 else 0
    shares.append(chunk)
return shares
