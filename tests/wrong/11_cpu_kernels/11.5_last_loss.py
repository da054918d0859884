"""Returns the last size at which A still wins."""
found = None
for n, a, b in zip(tokens, a_seconds, b_seconds, strict=True):
    if b >= a:
        found = n
