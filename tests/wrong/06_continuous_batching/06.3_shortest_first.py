"""Serves short prompts first, so that a long one waits while short ones come."""
shares = [int(n == 1) for n in pending]
left = budget - sum(shares)
for i in sorted(range(len(pending)), key=lambda i: pending[i]):
    if pending[i] > 1:
        shares[i] = min(pending[i], left)
        left -= shares[i]
return shares
