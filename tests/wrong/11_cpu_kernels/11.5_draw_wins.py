"""Counts a draw as a win of B."""
found = None
for n, a, b in zip(reversed(tokens), reversed(a_seconds), reversed(b_seconds), strict=True):
    if b > a:
        break
    found = n
