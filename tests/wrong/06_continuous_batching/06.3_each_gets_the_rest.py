"""Never takes off what a prompt took."""
left = budget - sum(n == 1 for n in pending)
shares = []
for n in pending:
    chunk = 1 if n == 1 else min(n, left)
    shares.append(chunk)
return shares
