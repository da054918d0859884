"""Returns the first size at which B happens to win."""
found = None
for n, a, b in zip(tokens, a_seconds, b_seconds, strict=True):
    if b < a:
        found = n
        break
