"""Goes down the list: when the budget is full, decodes get nothing."""
left, shares = budget, []
for n in pending:
    shares.append(min(n, left))
    left -= shares[-1]
return shares
