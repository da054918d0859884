"""Returns the largest size where B never wins."""
found = tokens[-1]
for n, a, b in zip(reversed(tokens), reversed(a_seconds), reversed(b_seconds), strict=True):
    if b >= a:
        break
    found = n
